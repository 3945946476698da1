//! The socket of the service manager, and the variables that name it.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    process,
    sync::OnceLock,
    time::Duration,
};

use tracing::warn;

/// The longest wait for room in the manager's queue. The main thread must not wait long.
const LONGEST_SEND: Duration = Duration::from_millis(500);

/// The variables that a service manager sets. A program that this process starts must not get them.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A socket that takes the state of this process.
#[derive(Debug)]
pub(super) struct NotifySocket(UnixDatagram);

/// Connects to the socket that `NOTIFY_SOCKET` names. A sandbox, which the connection outlives, would not let
/// the process connect to an abstract name.
pub(crate) fn connect() {
    connected();
}

/// Returns whether a service manager takes the state of this process.
#[must_use]
pub fn is_connected() -> bool {
    matches!(connected(), Some(Ok(_)))
}

/// Returns the one connection of this process, or the reason why there is none, if `NOTIFY_SOCKET` is set.
fn connected() -> Option<&'static io::Result<NotifySocket>> {
    static CONNECTED: OnceLock<Option<io::Result<NotifySocket>>> = OnceLock::new();
    let named = || env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
    let connected = CONNECTED.get_or_init(|| named().map(|name| NotifySocket::connect(&name)));
    connected.as_ref()
}

impl NotifySocket {
    /// Returns the socket that `NOTIFY_SOCKET` names, if the process could connect to it.
    pub(super) fn from_environment() -> Option<&'static Self> {
        let connected = connected()?.as_ref();
        connected
            .inspect_err(|error| {
                warn!(%error, "cannot tell the service manager how the process is (NOTIFY_SOCKET)");
            })
            .ok()
    }

    /// Connects to a path, or to an abstract name after `@`.
    fn connect(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(Path::new(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(LONGEST_SEND))?;
        Ok(Self(socket))
    }

    /// Sends the state. A manager that does not take it misses it.
    pub(super) fn send(&self, state: &str) {
        if let Err(error) = self.0.send(state.as_bytes()) {
            warn!(%error, "the service manager did not take the state of this process");
        }
    }
}

/// Returns the time within which the service manager wants a sign of life from this process.
pub(super) fn watchdog() -> Option<Duration> {
    let variable = |name| env::var(name).ok();
    wanted(
        variable("WATCHDOG_USEC").as_deref(),
        variable("WATCHDOG_PID").as_deref(),
        process::id(),
    )
}

fn wanted(microseconds: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid != own.to_string()) {
        return None;
    }
    let microseconds = microseconds?.parse().ok().filter(|&count| count > 0)?;
    Some(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut datagram = [0; 100];
        let length = socket.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    }

    #[test]
    fn state_reaches_a_socket_with_a_path_or_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let abstract_name = format!("notify-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        for (bound, name) in [
            (UnixDatagram::bind(&path), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&address),
                format!("@{abstract_name}").into(),
            ),
        ] {
            let bound = bound.unwrap();
            NotifySocket::connect(&name).unwrap().send("READY=1");
            assert_eq!(received(&bound), "READY=1");
        }
        assert!(NotifySocket::connect("/no/such/socket".as_ref()).is_err());
    }

    #[test]
    fn watchdog_of_another_process_is_not_ours() {
        let second = Some(Duration::from_secs(1));
        for (microseconds, pid, expected) in [
            (Some("1000000"), None, second),
            (Some("1000000"), Some("17"), second),
            (Some("1000000"), Some("18"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (Some("x"), Some("17"), None),
            (None, Some("17"), None),
        ] {
            assert_eq!(
                wanted(microseconds, pid, 17),
                expected,
                "{microseconds:?}, {pid:?}"
            );
        }
    }
}
