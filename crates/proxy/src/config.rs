//! Flags and environment of the proxy, typed and checked.

use std::net::SocketAddr;

use clap::Parser;
use process::cli::{self, LogArgs, ServeArgs, WorkloadApiArgs};

use crate::upstream::UpstreamArgs;

/// Flags and environment.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "proxy",
    version,
    max_term_width = 100,
    about = "TLS-terminating reverse proxy that verifies its upstream by SPIFFE ID\n\n\
        Presents its own X.509-SVID and forwards requests, bearer token included, only to the \
        workload with the given SPIFFE ID",
    after_help = "\
Each flag can also be set by PROXY_ and its name: PROXY_UPSTREAM=https://localhost:8080

Examples:
  proxy
  proxy --upstream https://10.0.0.5:8080 --upstream-id spiffe://example.org/server
  proxy --upstream https://10.0.0.5:8080 --upstream https://10.0.0.6:8080
  proxy --listen 127.0.0.1:8443 --path / --path /status"
)]
pub struct Config {
    /// IP address and port to serve on; the default takes IPv4 too
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443", value_parser = cli::listen_address)]
    pub listen: SocketAddr,
    /// Where to forward to, and who must be there.
    #[command(flatten)]
    pub upstream: UpstreamArgs,
    /// Path to forward, exactly; repeatable. Every other path is 404
    #[arg(long = "path", value_name = "PATH", default_value = "/", value_delimiter = ',', value_parser = path, help_heading = "Upstream")]
    pub paths: Vec<String>,
    /// Where identity comes from.
    #[command(flatten)]
    pub identity: WorkloadApiArgs,
    /// What the listener may take.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl AsRef<LogArgs> for Config {
    fn as_ref(&self) -> &LogArgs {
        &self.log
    }
}

/// A path as requests have it: it is compared byte for byte, so dots and escapes would never match
/// what their author meant.
fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let dots = text
        .split('/')
        .any(|segment| segment == "." || segment == "..");
    if !text.starts_with('/') || !text.bytes().all(plain) || dots {
        return Err(
            "expected a path from / on, of letters, digits, - . _ ~ and /, for example /status"
                .into(),
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn paths_are_plain() {
        for text in ["/", "/status", "/a/b.json", "/~user"] {
            assert_eq!(path(text).as_deref(), Ok(text));
        }
        for text in [
            "", "status", "/*", "/a?b", "/a#b", "/a b", "/%2e", "/../a", "/a/./b",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
    }
}
