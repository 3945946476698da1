//! The options of federation: endpoints to serve, and endpoints to fetch from.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use dev_agent::{BundleEndpoint, EndpointIdentity, OidcEndpoint, Partner, WebCertificate};
use spiffe::SpiffeId;

use super::values::{self, FederateFile, FederateWith};

/// The profile of the bundle endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    #[value(name = "https_spiffe")]
    Spiffe,
    #[value(name = "https_web")]
    Web,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Federation")]
pub(super) struct Federation {
    /// Trust bundle of another trust domain, for all workloads. Repeatable. The file is the output
    /// of `spire-server bundle show -format spiffe`.
    #[arg(
        long,
        env = "DEV_AGENT_FEDERATE",
        value_name = "spiffe://TRUST-DOMAIN=FILE",
        value_delimiter = '\n',
        value_parser = values::federate
    )]
    pub(super) federate: Vec<FederateFile>,

    /// Another trust domain and the URL of its bundle endpoint, from which the agent fetches its trust
    /// bundle for all workloads. Repeatable. The bundle's refresh hint is the period. Options:
    /// profile=https_spiffe (the default) or https_web; with https_spiffe bundle=FILE, the bundle for
    /// the first fetch, and id=SPIFFE-ID of the endpoint, spiffe://TRUST-DOMAIN/spire/server by
    /// default; with https_web ca=FILE, CA certificates instead of the system's.
    #[arg(
        long,
        env = "DEV_AGENT_FEDERATE_WITH",
        value_name = "spiffe://TRUST-DOMAIN=URL[;OPTION…]",
        value_delimiter = '\n',
        value_parser = values::federate_with
    )]
    pub(super) federate_with: Vec<FederateWith>,

    /// Address of an HTTPS endpoint that serves the agent's trust bundle to other trust domains, for
    /// example [::]:8443 [default: none].
    #[arg(long, env = "DEV_AGENT_BUNDLE_ENDPOINT", value_name = "ADDRESS",
        value_parser = values::address)]
    bundle_endpoint: Option<SocketAddr>,

    /// Profile of the bundle endpoint: https_spiffe presents an X.509-SVID, https_web the certificate
    /// of --web-certificate.
    #[arg(
        long,
        env = "DEV_AGENT_BUNDLE_ENDPOINT_PROFILE",
        value_name = "PROFILE",
        default_value = "https_spiffe"
    )]
    bundle_endpoint_profile: Profile,

    /// SPIFFE ID of the bundle endpoint [default: spiffe://TRUST-DOMAIN/spire/server, as SPIRE's].
    #[arg(long, env = "DEV_AGENT_BUNDLE_ENDPOINT_ID", value_name = "SPIFFE-ID",
        value_parser = values::spiffe_id)]
    bundle_endpoint_id: Option<SpiffeId>,

    /// Time after which others fetch the bundle again, in whole seconds.
    #[arg(long, env = "DEV_AGENT_BUNDLE_REFRESH_HINT", value_name = "TIME", default_value = "5m",
        value_parser = values::duration)]
    bundle_refresh_hint: Duration,

    /// Address of an HTTPS endpoint with OIDC discovery and a JWK Set, for validators that do not
    /// speak SPIFFE [default: none].
    #[arg(long, env = "DEV_AGENT_OIDC_ENDPOINT", value_name = "ADDRESS",
        value_parser = values::address)]
    oidc_endpoint: Option<SocketAddr>,

    /// Claim 'iss' of JWT-SVIDs, and the issuer of --oidc-endpoint: an https URL [default: none].
    #[arg(long, env = "DEV_AGENT_JWT_ISSUER", value_name = "URL")]
    pub(super) jwt_issuer: Option<String>,

    /// Certificate of the endpoints with a name, and its chain (PEM).
    #[arg(
        long,
        env = "DEV_AGENT_WEB_CERTIFICATE",
        value_name = "FILE",
        requires = "web_key"
    )]
    web_certificate: Option<String>,

    /// Private key of --web-certificate (PEM).
    #[arg(
        long,
        env = "DEV_AGENT_WEB_KEY",
        value_name = "FILE",
        requires = "web_certificate"
    )]
    web_key: Option<String>,
}

impl Federation {
    /// Reads the files of --federate-with.
    pub(super) fn partners(&self) -> Result<Vec<Partner>, String> {
        let partners = self.federate_with.iter().map(FederateWith::partner);
        let partners: Result<_, _> = partners.collect();
        partners.map_err(|reason| format!("--federate-with: {reason}"))
    }

    /// Returns the endpoints, with the certificate from its files.
    pub(super) fn endpoints(
        &self,
    ) -> Result<(Option<BundleEndpoint>, Option<OidcEndpoint>), String> {
        let certificate = self.certificate()?;
        let needed = |setting: &str| {
            let certificate = certificate.clone();
            certificate.ok_or_else(|| format!("{setting} needs --web-certificate and --web-key"))
        };
        let identity = match self.bundle_endpoint_profile {
            Profile::Web if self.bundle_endpoint_id.is_some() => {
                return Err("--bundle-endpoint-id: a SPIFFE ID is not presented with --bundle-endpoint-profile https_web; leave it out".to_owned());
            }
            Profile::Web => EndpointIdentity::Web(needed("--bundle-endpoint-profile https_web")?),
            Profile::Spiffe => EndpointIdentity::Spiffe(self.bundle_endpoint_id.clone()),
        };
        let bundle = self.bundle_endpoint.map(|address| BundleEndpoint {
            address,
            identity,
            refresh_hint: self.bundle_refresh_hint,
        });
        let oidc = match self.oidc_endpoint {
            Some(address) => Some(OidcEndpoint {
                address,
                certificate: needed("--oidc-endpoint")?,
            }),
            None => None,
        };
        Ok((bundle, oidc))
    }

    fn certificate(&self) -> Result<Option<WebCertificate>, String> {
        let (Some(chain), Some(key)) = (&self.web_certificate, &self.web_key) else {
            return Ok(None);
        };
        let read = |setting: &str, path| {
            values::read_file(path).map_err(|reason| format!("{setting}: {reason}"))
        };
        let chain = read("--web-certificate", chain)?;
        let key = read("--web-key", key)?;
        WebCertificate::from_pem(chain.as_bytes(), key.as_bytes())
            .map(Some)
            .map_err(super::origin::of_setting)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;

    #[test]
    fn bad_values_are_refused_with_setting_value_and_remedy_f008() {
        for (args, parts) in [
            (
                &["--federate-with", "spiffe://b.test"][..],
                ["--federate-with", "there is no '='"],
            ),
            (
                &["--federate-with", "spiffe://b.test=https://b.test"],
                ["spiffe://b.test", "add bundle=FILE"],
            ),
            (
                &[
                    "--federate-with",
                    "spiffe://b.test=http://b.test;profile=https_web",
                ],
                ["--federate-with", "'http://b.test' is not an https URL"],
            ),
            (
                &["--federate-with", "spiffe://b.test=https://b.test;ca=x"],
                ["--federate-with", "profile=https_web; add that"],
            ),
            (
                &[
                    "--federate-with",
                    "spiffe://b.test=https://b.test;profile=https_web;id=x",
                ],
                ["--federate-with", "leave them out"],
            ),
            (
                &[
                    "--federate-with",
                    "spiffe://b.test=https://b.test;profile=web",
                ],
                ["'profile=web'", "https_spiffe and https_web"],
            ),
            (
                &[
                    "--federate-with",
                    "spiffe://b.test=https://b.test;profile=x=https_web",
                ],
                ["'profile=x=https_web'", "https_spiffe and https_web"],
            ),
            (
                &["--federate-with", "spiffe://b.test=https://b.test;path=x"],
                ["'path=x' is not an option", "bundle= and ca= are"],
            ),
            (
                &[
                    "--federate-with",
                    "spiffe://example.org=https://a.test;profile=https_web",
                ],
                ["spiffe://example.org", "the agent's own trust domain"],
            ),
            (
                &["--bundle-endpoint", "localhost:8443"],
                ["--bundle-endpoint", "for example 127.0.0.1:8443"],
            ),
            (
                &[
                    "--bundle-endpoint",
                    "[::1]:0",
                    "--bundle-endpoint-id",
                    "spiffe://b.test/x",
                ],
                [
                    "--bundle-endpoint-id",
                    "'spiffe://b.test/x' is not of trust domain 'example.org'",
                ],
            ),
            (
                &[
                    "--bundle-endpoint",
                    "[::1]:0",
                    "--bundle-refresh-hint",
                    "0s",
                ],
                ["--bundle-refresh-hint", "0s is not between 1s and 1day"],
            ),
            (
                &[
                    "--bundle-endpoint",
                    "[::1]:0",
                    "--bundle-endpoint-profile",
                    "https_web",
                ],
                [
                    "--bundle-endpoint-profile https_web",
                    "needs --web-certificate",
                ],
            ),
            (
                &["--oidc-endpoint", "[::1]:0"],
                ["--oidc-endpoint", "needs --web-certificate"],
            ),
            (
                &["--jwt-issuer", "http://a.test"],
                ["--jwt-issuer", "'http://a.test' is not an https URL"],
            ),
            (
                &["--web-certificate", "/nowhere", "--web-key", "/nowhere"],
                ["--web-certificate", "cannot read /nowhere"],
            ),
        ] {
            let error = parse(args, None).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
