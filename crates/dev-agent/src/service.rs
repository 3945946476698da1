//! The five RPCs of the Workload API, for one connection.

use std::{os::unix::ffi::OsStrExt, sync::Arc};

use futures_util::stream::try_unfold;
use spiffe::SpiffeId;
use tokio::sync::watch;
use tonic::{Request, Response, Status, codegen::BoxStream};
use tracing::{debug, error, info, warn};

use crate::{
    answer,
    attest::{AttestError, Attestor, Caller, PeerProcess},
    entry,
    error::Error,
    pb,
    pb::spiffe_workload_api_server::SpiffeWorkloadApi,
    state::{ActiveEntry, Snapshot, State},
    status::Phase,
    validate,
};

/// The most audiences that a verifier of the Rust `spiffe` crate accepts.
const MAX_AUDIENCES: usize = 32;
/// The longest audience in bytes that such a verifier accepts.
const MAX_AUDIENCE: usize = 2048;

/// The Workload API as the process at the other end of one connection sees it.
#[derive(Clone)]
pub(crate) struct WorkloadApi {
    pub(crate) state: Arc<State>,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) peer: PeerProcess,
}

/// A function that makes a message of one stream.
type MakeMessage<M> = fn(&Snapshot, &[&ActiveEntry]) -> M;

/// An open stream and its last message.
struct Watch<M> {
    api: WorkloadApi,
    rpc: &'static str,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    make_message: MakeMessage<M>,
    last: Option<M>,
    /// A clone that counts as an open stream.
    _open: Arc<()>,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = BoxStream<pb::X509svidResponse>;
    type FetchX509BundlesStream = BoxStream<pb::X509BundlesResponse>;
    type FetchJWTBundlesStream = BoxStream<pb::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<pb::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        // The timers may be late after the machine was suspended.
        self.state.reissue_due();
        self.watch("FetchX509SVID", answer::x509_svids).await
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.watch("FetchX509Bundles", answer::x509_bundles).await
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.watch("FetchJWTBundles", answer::jwt_bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<Response<pb::JwtsvidResponse>, Status> {
        let request = request.into_inner();
        let audience = audience(request.audience)?;
        let wanted = wanted(&request.spiffe_id)?;
        let (snapshot, caller) = self.admit(&mut self.state.subscribe()).await?;
        let mut entries = matching(&snapshot, &caller);
        entries.retain(|active| wanted.as_ref().is_none_or(|id| active.entry.id() == id));
        self.limit("FetchJWTSVID", &caller)?;
        permit("FetchJWTSVID", &caller, &entries)?;
        let config = &self.state.config;
        let response =
            answer::jwt_svids(&snapshot, &entries, &audience, config).map_err(not_issued)?;
        log_granted("FetchJWTSVID", &caller, &entries);
        Ok(Response::new(response))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        let request = request.into_inner();
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let (snapshot, caller) = self.admit(&mut self.state.subscribe()).await?;
        self.limit("ValidateJWTSVID", &caller)?;
        permit("ValidateJWTSVID", &caller, &matching(&snapshot, &caller))?;
        validate::validate(&snapshot, &request.audience, &request.svid)
            .map(Response::new)
            .map_err(|reason| {
                info!(pid = caller.peer.pid, ?reason, "JWT-SVID found invalid");
                Status::invalid_argument("the JWT-SVID is not valid")
            })
    }
}

impl WorkloadApi {
    /// Waits while the agent is stalled, then attests the caller and takes a snapshot.
    ///
    /// The snapshot comes last, so that it lacks an entry that was withdrawn during the
    /// attestation.
    async fn admit(
        &self,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    ) -> Result<(Arc<Snapshot>, Caller), Status> {
        loop {
            serving(snapshots).await?;
            let attested = self.attestor.attest(self.peer.clone()).await;
            let caller = attested.map_err(|error| unattested(&self.peer, &error))?;
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if snapshot.phase == Phase::Serving {
                return Ok((snapshot, caller));
            }
        }
    }

    /// Refuses a caller that calls too often.
    fn limit(&self, rpc: &str, caller: &Caller) -> Result<(), Status> {
        if self.attestor.rate.admit(&caller.selectors) {
            return Ok(());
        }
        let PeerProcess { pid, uid, .. } = caller.peer;
        debug!(pid, uid, "{rpc} denied: too many calls");
        Err(Status::unavailable("rate limit exceeded"))
    }

    /// Returns a stream with the current message, and another one whenever the message changes.
    ///
    /// The first message is made before this returns, so that a refusal is the status of the RPC.
    async fn watch<M: Clone + PartialEq + Send + 'static>(
        &self,
        rpc: &'static str,
        make_message: MakeMessage<M>,
    ) -> Result<Response<BoxStream<M>>, Status> {
        let mut watch = Watch {
            api: self.clone(),
            rpc,
            snapshots: self.state.subscribe(),
            make_message,
            last: None,
            _open: Arc::clone(&self.state.streams),
        };
        watch.snapshots.mark_changed();
        let first = watch.next().await?;
        let messages = try_unfold((watch, Some(first)), async |(mut watch, first)| {
            let message = match first {
                Some(first) => first,
                None => watch.next().await?,
            };
            Ok(Some((message, (watch, None))))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

impl<M: Clone + PartialEq> Watch<M> {
    /// Waits for a message that differs from the last one.
    ///
    /// The caller is attested again for each message, because it may run another program by now, or
    /// have ended.
    async fn next(&mut self) -> Result<M, Status> {
        loop {
            self.snapshots.changed().await.map_err(|_| stopping())?;
            let (snapshot, caller) = self.api.admit(&mut self.snapshots).await?;
            if self.last.is_none() {
                self.api.limit(self.rpc, &caller)?;
            }
            let entries = matching(&snapshot, &caller);
            permit(self.rpc, &caller, &entries)?;
            let message = (self.make_message)(&snapshot, &entries);
            if self.last.as_ref() != Some(&message) {
                log_granted(self.rpc, &caller, &entries);
                self.last = Some(message.clone());
                return Ok(message);
            }
        }
    }
}

/// Waits while the agent is stalled. Fails if the agent stops.
async fn serving(snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Result<(), Status> {
    let changed = snapshots.wait_for(|snapshot| snapshot.phase != Phase::Stalled);
    match changed.await.map_err(|_| stopping())?.phase {
        Phase::Stopped => Err(stopping()),
        Phase::Serving | Phase::Stalled => Ok(()),
    }
}

/// Returns the entries that match the caller.
fn matching<'a>(snapshot: &'a Snapshot, caller: &Caller) -> Vec<&'a ActiveEntry> {
    let all = snapshot.entries.iter();
    all.filter(|active| active.entry.matches(&caller.selectors))
        .collect()
}

/// Refuses a caller that no entry matches.
fn permit(rpc: &str, caller: &Caller, entries: &[&ActiveEntry]) -> Result<(), Status> {
    if !entries.is_empty() {
        return Ok(());
    }
    let (PeerProcess { pid, uid, .. }, path) = (&caller.peer, sanitized_path(caller));
    info!(pid, uid, path, "{rpc} denied: no entry matches");
    Err(Status::permission_denied("no identity issued"))
}

/// Logs the SPIFFE IDs that a caller gets.
fn log_granted(rpc: &str, caller: &Caller, entries: &[&ActiveEntry]) {
    let (PeerProcess { pid, uid, .. }, path) = (&caller.peer, sanitized_path(caller));
    for active in entries {
        let id = active.entry.id();
        info!(pid, uid, path, "{rpc} granted: {id}");
    }
}

/// Returns the path of the caller's binary, sanitized for the log.
fn sanitized_path(caller: &Caller) -> Option<String> {
    let path = caller.path.as_deref()?;
    Some(path.as_os_str().as_bytes().escape_ascii().to_string())
}

/// Logs why a caller can't be attested, and returns its status.
fn unattested(peer: &PeerProcess, error: &AttestError) -> Status {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    warn!(pid = peer.pid, uid = peer.uid, %error, cause, "caller not attested");
    Status::unavailable("workload attestation failed")
}

/// Logs an internal fault, and returns a status that tells the caller nothing of it.
fn not_issued(error: Error) -> Status {
    error!(%error, "JWT-SVID not issued");
    Status::unavailable("could not issue the JWT-SVID")
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

/// Returns the audiences of a token, each once, in the given order.
fn audience(asked: Vec<String>) -> Result<Vec<String>, Status> {
    let mut audience: Vec<String> = Vec::new();
    for value in asked {
        if value.is_empty() {
            return Err(Status::invalid_argument("audience must not be empty"));
        }
        if value.len() > MAX_AUDIENCE || value.contains(char::is_control) {
            return Err(Status::invalid_argument(
                "audience must have no control characters and at most 2048 bytes",
            ));
        }
        if !audience.contains(&value) {
            audience.push(value);
        }
        if audience.len() > MAX_AUDIENCES {
            return Err(Status::invalid_argument("more than 32 audiences"));
        }
    }
    if audience.is_empty() {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    Ok(audience)
}

/// Parses the requested SPIFFE ID. An empty text requests all identities.
fn wanted(spiffe_id: &str) -> Result<Option<SpiffeId>, Status> {
    if spiffe_id.is_empty() {
        return Ok(None);
    }
    entry::parse_id(spiffe_id)
        .map(Some)
        .map_err(|_| Status::invalid_argument("spiffe_id must be a SPIFFE ID with a path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_kept_in_order_and_once_w100() {
        let given = ["b", "a", "b"].map(str::to_owned).to_vec();
        assert_eq!(audience(given).unwrap(), ["b", "a"]);
    }

    #[test]
    fn malformed_audiences_are_rejected_w099() {
        let many = (0..33).map(|n| n.to_string()).collect();
        for given in [
            vec![],
            vec![String::new()],
            vec!["a".to_owned(), String::new()],
            vec!["a\0b".to_owned()],
            vec!["a\n".to_owned()],
            // "W100"
            vec!["a".repeat(2049)],
            many,
        ] {
            let status = audience(given).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn an_internal_failure_is_not_told_to_the_caller_w029() {
        let status = not_issued(Error::Crypto { what: "sign" });
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unavailable, "could not issue the JWT-SVID")
        );
    }
}
