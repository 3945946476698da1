//! The flags of a server that answers a gateway's checks.

use clap::Args;
use process::listen::{ListenAddress, ListenFlag};

/// The address for gateways.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Gateways")]
pub struct ExtAuthzArgs {
    /// Answer the checks of Envoy, Istio, Contour or Emissary, in place of --listen and --upstream. They come
    /// by ext_authz over gRPC without TLS, on a loopback address or a Unix socket (unix:/run/authz.sock). The
    /// gateway forwards the requests that are allowed, with the caller's SPIFFE ID in --caller-header
    #[arg(
        long,
        value_name = "ADDRESS",
        group = "guarded",
        conflicts_with_all = ["listen", "peers", "client_certificates"]
    )]
    pub(crate) ext_authz: Option<ListenAddress>,
    /// Answer checks on an address that other machines reach. The checks have the callers' tokens, and the
    /// answers have the callers' SPIFFE IDs, so that an attacker on the path can act as any caller
    #[arg(long, requires = "ext_authz")]
    plaintext_ext_authz: bool,
}

impl ExtAuthzArgs {
    /// Returns the address to answer checks on, if that is what the server does.
    ///
    /// # Errors
    /// Fails when other machines could reach it and no flag accepts that.
    pub(crate) fn address(&self) -> Result<Option<ListenFlag<'_>>, String> {
        match &self.ext_authz {
            Some(address) if !address.is_local() && !self.plaintext_ext_authz => Err(format!(
                "--ext-authz {address} can be reached from other machines, and has no TLS: an attacker on the path gets the callers' tokens; use a loopback address or a Unix socket, for example 127.0.0.1:9001 or unix:/run/authz.sock, or accept it with --plaintext-ext-authz"
            )),
            address => Ok(address.as_ref().map(|address| ListenFlag {
                is_local_only: !self.plaintext_ext_authz,
                ..address.of_flag("--ext-authz")
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::config::Config;

    #[test]
    fn an_address_that_others_reach_is_refused_unless_a_flag_accepts_it_u018() {
        for (address, accepted, fine) in [
            ("127.0.0.1:9001", false, true),
            ("unix:/run/authz.sock", false, true),
            ("0.0.0.0:9001", false, false),
            ("0.0.0.0:9001", true, true),
        ] {
            let flag = accepted.then_some("--plaintext-ext-authz");
            let args = ["server", "--ext-authz", address].into_iter().chain(flag);
            let config = Config::try_parse_from(args).unwrap();
            match config.ext_authz.address() {
                Ok(found) => {
                    let found = found.unwrap();
                    assert_eq!(found.to_string(), format!("--ext-authz {address}"));
                    assert_eq!(found.is_local_only, !accepted);
                }
                Err(error) => assert!(!fine && error.contains("--plaintext-ext-authz"), "{error}"),
            }
        }
    }
}
