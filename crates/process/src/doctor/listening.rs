//! The steps of a process that serves: its address, its X.509-SVID as callers verify it, and its open files.

use std::{fs, net::SocketAddr, os::unix::net::UnixStream, time::SystemTime};

use common::{
    certificate, tls,
    workload::{WorkloadApi, X509Source},
};
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};

use super::{Doctor, Finding, Kind, Trouble, words, workload};
use crate::{
    admin,
    cli::{ServeArgs, WorkloadApiArgs},
    listen::{self, ClaimedAddress, Inherited, ListenAddress, ListenFlag},
    runtime::OpenFiles,
};

/// Tries to claim the address that the process would listen on, and that of `--admin`. It does not listen, so
/// that no process that runs loses a connection.
pub fn address(
    doctor: &mut Doctor,
    args: &ServeArgs,
    inherited: Inherited,
    listen: ListenFlag<'_>,
) {
    let finding = match args.claim(inherited, listen) {
        Ok(_) => Finding::Ok(if args.shares_port() {
            format!("{listen} can be bound, next to an older process of this user")
        } else {
            format!("{listen} can be bound")
        }),
        Err(error) => in_use(listen, error),
    };
    doctor.note("listen", Kind::Listen, finding);
    admin(doctor, args);
}

/// Tries to claim the address of `--admin`, if there is one.
fn admin(doctor: &mut Doctor, args: &ServeArgs) {
    let Some(flag) = args.admin.address().map(|one| one.of_flag(admin::FLAG)) else {
        return;
    };
    let finding = match args.claim_admin() {
        Ok(_) => Finding::Ok(format!("{flag} can be bound")),
        Err(error) => in_use(flag, error),
    };
    doctor.note("admin", Kind::Listen, finding);
}

/// Returns the finding about an address that can't be claimed. If a process of this user listens there, it may
/// be the one to diagnose.
fn in_use(listen: ListenFlag<'_>, error: listen::Error) -> Finding {
    let owner = owner(listen.address);
    let is_ours = match listen.address {
        // The kernel shares a port among the processes of one user that ask for it, as this program does.
        ListenAddress::Ip(_) => {
            ClaimedAddress::claim(Inherited::default(), listen, true, 1).is_ok()
        }
        ListenAddress::Unix(_) => owner == Some(geteuid().as_raw()),
    };
    let by = owner.map_or_else(String::new, |uid| {
        format!(", where a process of uid {uid} listens")
    });
    let tried = format!("{listen}{by}");
    if is_ours {
        Finding::Warning(Trouble::new(
            tried,
            error,
            "nothing, if that process is the one to diagnose; otherwise stop it, or choose another address",
        ))
    } else {
        Finding::Failed(Trouble::new(
            tried,
            error,
            format!("stop that process, or change {}", listen.name),
        ))
    }
}

/// Returns the Unix user ID of the process that listens there, if there is one.
fn owner(address: &ListenAddress) -> Option<u32> {
    match address {
        ListenAddress::Ip(address) => owner_of_port(*address),
        ListenAddress::Unix(path) => {
            let socket = UnixStream::connect(path).ok()?;
            let peer = getsockopt(&socket, PeerCredentials).ok()?;
            Some(peer.uid())
        }
    }
}

/// Returns the user of the first socket that listens on the port (proc_pid_net(5)).
fn owner_of_port(address: SocketAddr) -> Option<u32> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| owner_in(&table, address.port()))
}

/// Returns the user of the first socket of a table that listens on the port.
fn owner_in(table: &str, port: u16) -> Option<u32> {
    /// The state of a socket that listens (include/net/tcp_states.h).
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (local, state, uid) = (fields.get(1)?, fields.get(3)?, fields.get(7)?);
        (local.ends_with(&port) && *state == LISTEN).then(|| uid.parse().ok())?
    })
}

/// Tries the steps from the Workload API to the X.509-SVID that the process presents. Returns the X.509 source.
///
/// # Errors
/// Fails with the name of what the next steps need and lack.
pub async fn identity(
    doctor: &mut Doctor,
    api: &WorkloadApi,
    wanted: &WorkloadApiArgs,
) -> Result<X509Source, &'static str> {
    let begun = workload::begin(doctor, api, wanted).await;
    let needs = match begun {
        Ok(()) => match workload::svid(doctor, api, true).await {
            Some(source) => {
                svid(doctor, &source);
                return Ok(source);
            }
            None => "an X.509-SVID",
        },
        Err(needs) => {
            doctor.not_tried("svid", Kind::Identity, needs);
            needs
        }
    };
    doctor.not_tried("fit", Kind::Identity, needs);
    doctor.not_tried("x509-bundles", Kind::Bundles, needs);
    Err(needs)
}

/// Verifies the process's own X.509-SVID as its callers do, and notes its DNS names for callers without SPIFFE.
fn svid(doctor: &mut Doctor, source: &X509Source) {
    let finding = match tls::verify_own(source) {
        Ok(()) => Finding::Ok("callers of the own trust domain verify it".to_owned()),
        Err(error) => Finding::Failed(Trouble::new(
            "verify the X.509-SVID as callers do",
            error,
            "callers would refuse it: compare the agent's CA with its trust bundle, and the clocks of both machines",
        )),
    };
    doctor.note("fit", Kind::Identity, finding);
    let Ok(svid) = source.svid() else {
        return;
    };
    let leaf = svid.leaf().as_bytes();
    let facts = certificate::facts(leaf);
    let trouble = facts.and_then(|facts| late(facts.from, facts.until, SystemTime::now()));
    if let Some(trouble) = trouble {
        doctor.warning("renewal", Kind::Identity, trouble);
    }
    let names = certificate::dns_names(leaf);
    let text = if names.is_empty() {
        "none: callers must verify the SPIFFE ID, and those that verify a host name refuse it"
            .to_owned()
    } else {
        format!(
            "{}, for callers that verify a host name",
            words::list(names)
        )
    };
    doctor.ok("dns-names", Kind::Identity, text);
}

/// Returns the trouble of a certificate that should have been renewed. Agents renew at half of its life.
fn late(begin: SystemTime, end: SystemTime, now: SystemTime) -> Option<Trouble> {
    let life = end.duration_since(begin).ok()?;
    let left = end.duration_since(now).unwrap_or_default();
    (left < life / 4).then(|| {
        let cause = format!(
            "{} of {} are left, and agents renew at half",
            words::span(left),
            words::span(life)
        );
        let remedy = "look at the agent's log; is it cut off from its server?";
        Trouble::new("X.509-SVID", cause, remedy)
    })
}

/// Compares the limit of open files with what the flags allow.
pub fn open_files(doctor: &mut Doctor, args: &ServeArgs, others: &[OpenFiles]) {
    let finding = match args.check_open_files_limit(others) {
        Ok(limit) => Finding::Ok(format!(
            "up to {limit}, which is enough for what the flags allow"
        )),
        Err(cause) => Finding::Warning(Trouble::new(
            "the limit of open files",
            cause,
            "LimitNOFILE= of the unit, or ulimit -n; or lower these flags",
        )),
    };
    doctor.note("open-files", Kind::Limits, finding);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn owner_of_a_port_is_that_of_the_socket_that_listens() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1001        0 1 1 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0
";
        assert_eq!(owner_in(table, 8080), Some(1000));
        assert_eq!(owner_in(table, 22), Some(0));
        assert_eq!(owner_in(table, 8081), None);
    }

    #[test]
    fn a_certificate_in_its_last_quarter_should_have_been_renewed() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let hours = |hours: u64| end - Duration::from_secs(hours * 3600);
        let begin = hours(96);
        assert_eq!(late(begin, end, hours(25)), None);
        let cause = late(begin, end, hours(23)).unwrap().cause;
        assert_eq!(cause, "23h of 4days are left, and agents renew at half");
        assert!(late(begin, end, end + Duration::from_secs(1)).is_some());
    }
}
