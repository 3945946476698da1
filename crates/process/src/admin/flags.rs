//! The flags of the admin listener.

use clap::Args;

use crate::listen::{ListenAddress, ListenFlag};

/// The admin listener.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin listener")]
pub struct AdminArgs {
    /// Answer /live, /ready, /metrics and /log over HTTP, and show a status page at /, on a loopback address
    /// or a Unix socket (unix:/run/admin.sock), from the start on [default: no such listener]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<ListenAddress>,
    /// Let other machines reach the address of --admin. Everyone who reaches it can read the state of this
    /// process. /log is changed from this machine only
    #[arg(long, requires = "admin")]
    admin_remote: bool,
    /// Host name by which --admin may be asked, apart from localhost and IP addresses; repeatable. Others are
    /// answered 421, because a page in a browser could use them (DNS rebinding)
    #[arg(long, value_name = "NAME", requires = "admin", value_delimiter = ',', value_parser = host_name)]
    admin_host: Vec<String>,
}

impl AdminArgs {
    /// Returns the address to listen on, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<&ListenAddress> {
        self.admin.as_ref()
    }

    /// Returns the names of the listener apart from addresses and `localhost`.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.admin_host
    }

    /// Checks the address. `listen` is the flag of the process's other one, if it has one.
    ///
    /// # Errors
    /// Fails when other machines could reach it and may not, or when it is taken by `listen`.
    pub fn check(&self, listen: Option<ListenFlag<'_>>) -> Result<(), String> {
        let Some(address) = &self.admin else {
            return Ok(());
        };
        if !address.is_local() && !self.admin_remote {
            return Err(format!(
                "--admin {address} can be reached from other machines, which could read the state of this process; use a loopback address or a Unix socket, for example 127.0.0.1:9090, or accept it with --admin-remote"
            ));
        }
        match listen.filter(|listen| overlap(address, listen.address)) {
            Some(listen) => Err(format!(
                "--admin {address} overlaps {listen}; choose another port or path with --admin"
            )),
            None => Ok(()),
        }
    }
}

/// Returns whether a process can't listen on both addresses.
fn overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Unix(a), ListenAddress::Unix(b)) => a == b,
        (ListenAddress::Ip(a), ListenAddress::Ip(b)) => {
            let [one, other] = [a.ip(), b.ip()].map(|ip| ip.to_canonical());
            let is_any = one.is_unspecified() || other.is_unspecified();
            a.port() != 0 && a.port() == b.port() && (one == other || is_any)
        }
        _ => false,
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_host) {
        Ok(text.trim_end_matches('.').to_owned())
    } else {
        Err("not a host name without a port; expected for example node-1.internal".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        admin: AdminArgs,
    }

    fn checked(args: &[&str]) -> Result<(), String> {
        let flags = Flags::try_parse_from(["x"].iter().chain(args));
        let args = flags.map_err(|error| error.to_string())?.admin;
        let listen: ListenAddress = "[::]:8080".parse().unwrap();
        args.check(Some(listen.of_flag("--ext-authz")))
    }

    #[test]
    fn address_that_others_reach_or_that_is_taken_is_refused_with_the_remedy() {
        for args in [
            &[] as &[&str],
            &["--admin", "127.0.0.1:9090"],
            &["--admin", "[::1]:0"],
            &["--admin", "unix:/run/admin.sock"],
            &["--admin", "0.0.0.0:9090", "--admin-remote"],
            &["--admin", "127.0.0.1:1", "--admin-host", "a.internal,b"],
        ] {
            assert_eq!(checked(args), Ok(()), "{args:?}");
        }
        for (args, text) in [
            (
                &["--admin", "0.0.0.0:9090"] as &[&str],
                "accept it with --admin-remote",
            ),
            (
                &["--admin", "10.0.0.1:9090"],
                "accept it with --admin-remote",
            ),
            (
                &["--admin", "127.0.0.1:8080"],
                "--admin 127.0.0.1:8080 overlaps --ext-authz [::]:8080; choose another port",
            ),
            (
                &["--admin", "localhost:1"],
                "expected an IP address and a port",
            ),
            (
                &["--admin", "unix:admin.sock"],
                "expected an IP address and a port",
            ),
            (&["--admin-remote"], "--admin <ADDRESS>"),
            (&["--admin-host", "a"], "--admin <ADDRESS>"),
            (
                &["--admin", "127.0.0.1:1", "--admin-host", "a:1"],
                "node-1.internal",
            ),
            (
                &["--admin", "127.0.0.1:1", "--admin-host", ""],
                "node-1.internal",
            ),
        ] {
            let error = checked(args).unwrap_err();
            assert!(error.contains(text), "{args:?}: {error}");
        }
    }

    #[test]
    fn addresses_overlap_if_a_process_cannot_listen_on_both() {
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("0.0.0.0:1", "10.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:0", "[::]:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:1", false),
        ] {
            let [one, other] = [a, b].map(|text| text.parse().unwrap());
            assert_eq!(overlap(&one, &other), expected, "{a} {b}");
            assert_eq!(overlap(&other, &one), expected, "{b} {a}");
        }
    }
}
