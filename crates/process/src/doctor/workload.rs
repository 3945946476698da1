//! The steps of the Workload API: its socket, the identity of this process, its SVID, and bundles.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use common::workload::{Address, Error, IssuedId, JwtSource, Reason, WorkloadApi, X509Source};
use spiffe::{BundleSource, TrustDomain};

use super::{Doctor, Finding, Kind, STEP, Trouble, permission, words};
use crate::cli::WorkloadApiArgs;

/// The name of the Workload API as something that a step needs.
const CONNECTED: &str = "the Workload API";

/// The name of the identity as something that a step needs.
const IDENTITY: &str = "an identity";

/// Returns the Workload API that the flags name, each call of which is made once and has `limit` or [`STEP`].
#[must_use]
pub fn once(args: &WorkloadApiArgs, limit: Duration) -> WorkloadApi {
    args.workload_api(limit.min(STEP)).once()
}

/// Tries the socket, the permission on it and the identity, on which all other steps depend.
///
/// # Errors
/// Fails with the name of what the other steps need and lack.
pub async fn begin(
    doctor: &mut Doctor,
    api: &WorkloadApi,
    wanted: &WorkloadApiArgs,
) -> Result<(), &'static str> {
    if !agent(doctor, api).await {
        doctor.not_tried("identity", Kind::Identity, CONNECTED);
        return Err(CONNECTED);
    }
    if identity(doctor, api, wanted).await {
        Ok(())
    } else {
        Err(IDENTITY)
    }
}

/// Tries the socket and the permission on it. Returns whether the agent accepts.
async fn agent(doctor: &mut Doctor, api: &WorkloadApi) -> bool {
    let address = api.address();
    let reached = api.reach().await;
    let path = match address {
        Address::Unix(path) => Some(path),
        Address::Tcp(_) => None,
    };
    let error = match reached {
        Ok(process) => {
            doctor.ok("socket", Kind::WorkloadApi, format!("{address} accepts"));
            let text = match process {
                Some(agent) => {
                    format!("this user may connect; the agent runs as uid {}", agent.uid)
                }
                None => "a TCP port of this machine needs none".to_owned(),
            };
            doctor.ok("permission", Kind::WorkloadApi, text);
            return true;
        }
        Err(error) => error,
    };
    match (error.reason(), path) {
        (Reason::SocketPermission(_), Some(path)) => forbidden(doctor, address, path, &error),
        (cause, _) => {
            let trouble = Trouble::new(address.to_string(), cause, socket_remedy(cause));
            doctor.failed("socket", Kind::WorkloadApi, trouble);
            doctor.not_tried("permission", Kind::WorkloadApi, "the socket");
        }
    }
    false
}

/// Records that this user may not connect. If the directory can't be searched, it is unknown whether the socket
/// is there.
fn forbidden(doctor: &mut Doctor, address: &Address, path: &Path, error: &Error) {
    if permission::is_there(path) {
        doctor.ok("socket", Kind::WorkloadApi, format!("{address} is there"))
    } else {
        doctor.not_tried("socket", Kind::WorkloadApi, "permission on its directory")
    }
    let remedy = "give this user's group access to the directory and the socket, or run the process as a user who \
                  has it";
    let trouble = Trouble::new(permission::obstacle(path), error.reason(), remedy);
    doctor.failed("permission", Kind::WorkloadApi, trouble);
}

fn socket_remedy(reason: &Reason) -> &'static str {
    match reason {
        Reason::NoSocket | Reason::NotASocket => {
            "start the agent, or name its socket with --workload-api or SPIFFE_ENDPOINT_SOCKET"
        }
        Reason::NobodyListens => "start the agent; this socket is what an earlier one left",
        _ => "look at the agent's log",
    }
}

/// Tries FetchX509SVID, and looks for the wanted identity among those that are issued. Returns whether it is
/// there.
async fn identity(doctor: &mut Doctor, api: &WorkloadApi, wanted: &WorkloadApiArgs) -> bool {
    let issued = match api.issued().await {
        Ok(issued) => issued,
        Err(error) => {
            doctor.failed("identity", Kind::Identity, identity_trouble(&error));
            return false;
        }
    };
    let count = issued.all.len();
    let chosen = named(&issued.chosen);
    let finding = if count > 1 && wanted.is_any() {
        let all = words::list(issued.all.iter().map(named));
        let cause =
            format!("{count} identities are issued, and which is the first may change: {all}");
        let remedy = "choose one with --spiffe-id or --hint";
        Finding::Warning(Trouble::new(chosen, cause, remedy))
    } else {
        Finding::Ok(chosen)
    };
    doctor.note("identity", Kind::Identity, finding);
    true
}

fn named(issued: &IssuedId) -> String {
    match issued.hint.as_str() {
        "" => issued.id.clone(),
        hint => format!("{} (hint {hint})", issued.id),
    }
}

/// Returns the trouble of a call that issued nothing.
fn identity_trouble(error: &Error) -> Trouble {
    let remedy = match error.reason() {
        Reason::NoIdentityIssued(_) => {
            "register this process as the cause says; the selectors must be those that the agent sees (user, \
             group, path), and the entry takes some seconds to reach the agent"
        }
        Reason::NotIssued(_) => {
            "register it for this process, or choose one that is issued with --spiffe-id or --hint"
        }
        Reason::NoAnswer => "look at the agent's log: it accepts connections and does not answer",
        Reason::NotImplemented(_) => "name the agent's Workload API socket with --workload-api",
        _ => "look at the agent's log",
    };
    Trouble::new("FetchX509SVID", error.reason(), remedy)
}

/// Returns the trouble of another call of the Workload API.
#[must_use]
pub fn call_trouble(call: &str, error: &Error) -> Trouble {
    Trouble::new(call, error.reason(), "look at the agent's log")
}

/// Tries to use the X.509-SVID as a process that presents it. A fault is a warning unless the SVID `is_needed`.
/// Returns the source.
pub async fn svid(doctor: &mut Doctor, api: &WorkloadApi, is_needed: bool) -> Option<X509Source> {
    let fetched = api.x509().await;
    let source = match fetched {
        Ok(identity) => identity.x509,
        Err(error) => {
            let trouble = call_trouble("FetchX509SVID", &error);
            doctor.note("svid", Kind::Identity, bad(trouble, is_needed));
            return None;
        }
    };
    let finding = match source.svid() {
        Ok(svid) => {
            let now = SystemTime::now();
            let expiry = words::time(svid.expiry(), now);
            Finding::Ok(format!("X.509-SVID {} until {expiry}", svid.serial()))
        }
        Err(error) => bad(
            Trouble::new("X.509-SVID", error, "look at the agent's log"),
            is_needed,
        ),
    };
    doctor.note("svid", Kind::Identity, finding);
    Some(source)
}

/// Looks for the X.509 bundles of the trust domains whose workloads are verified.
pub fn x509_bundles<'a>(
    doctor: &mut Doctor,
    source: &X509Source,
    wanted: impl IntoIterator<Item = &'a TrustDomain>,
) {
    let finding = match source.bundle_set() {
        Err(error) => Finding::Failed(Trouble::new(
            "X.509 bundles",
            error,
            "look at the agent's log",
        )),
        Ok(bundles) => {
            let found = bundles.iter().map(|(domain, bundle)| {
                format!(
                    "{domain} ({})",
                    counted(bundle.authorities().len(), "authority", "authorities")
                )
            });
            let mut found: Vec<_> = found.collect();
            found.sort();
            missing_or(source, wanted, words::list(found))
        }
    };
    doctor.note("x509-bundles", Kind::Bundles, finding);
}

/// Tries FetchJWTBundles, and looks for the bundles of the trust domains whose tokens are verified. A fault
/// is a warning unless a bundle `is_needed`. Returns the source.
pub async fn jwt_bundles<'a>(
    doctor: &mut Doctor,
    api: &WorkloadApi,
    wanted: impl IntoIterator<Item = &'a TrustDomain>,
    is_needed: bool,
) -> Option<JwtSource> {
    let source = match api.jwt_bundles().await {
        Ok(source) => source,
        Err(error) => {
            let trouble = call_trouble("FetchJWTBundles", &error);
            doctor.note("jwt-bundles", Kind::Bundles, bad(trouble, is_needed));
            return None;
        }
    };
    let finding = match source.bundles() {
        Err(error) => bad(
            Trouble::new("JWT bundles", error, "look at the agent's log"),
            is_needed,
        ),
        Ok(bundles) => {
            let found = bundles.iter().map(|(domain, bundle)| {
                format!(
                    "{domain} ({})",
                    counted(bundle.key_ids().count(), "key", "keys")
                )
            });
            missing_or(&source, wanted, words::list(found))
        }
    };
    doctor.note("jwt-bundles", Kind::Bundles, finding);
    Some(source)
}

fn bad(trouble: Trouble, is_needed: bool) -> Finding {
    if is_needed {
        Finding::Failed(trouble)
    } else {
        Finding::Warning(trouble)
    }
}

fn counted(count: usize, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {several}"),
    }
}

/// Returns the finding about bundles: good unless a wanted one is missing.
fn missing_or<'a, B: BundleSource>(
    source: &B,
    wanted: impl IntoIterator<Item = &'a TrustDomain>,
    found: String,
) -> Finding {
    let missing = crate::bundles::missing(source, wanted);
    let Some(first) = missing.first() else {
        return Finding::Ok(found);
    };
    let cause = format!("no bundle for trust domain {}", words::list(&missing));
    let remedy =
        format!("federate with it, and register this process with -federatesWith spiffe://{first}");
    Finding::Failed(Trouble::new(found, cause, remedy))
}
