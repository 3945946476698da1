//! The settings of an agent, and the rules that they must follow.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use http::Uri;
use spiffe::TrustDomain;
use tracing::warn;

use crate::{
    endpoint::{BundleEndpoint, EndpointIdentity, OidcEndpoint},
    entry::Entry,
    error::Error,
    federation::{self, FederatedBundle, Partner},
};

/// The most entries, which is the most that this project's own binaries accept from an agent.
const MAX_ENTRIES: usize = 10_000;
/// The most SVIDs that sources of the Rust `spiffe` crate accept by default.
const LIBRARY_ENTRIES: usize = 100;
/// The shortest life in which a workload can still change to the next certificate.
const MIN_X509_TTL: Duration = Duration::from_secs(2);
/// The shortest life of a token, which counts whole seconds.
const MIN_JWT_TTL: Duration = Duration::from_secs(1);
/// The shortest period of rotation that workloads can follow.
const MIN_ROTATION: Duration = Duration::from_secs(2);
/// The range of refresh hints, which count whole seconds.
const MIN_HINT: Duration = Duration::from_secs(1);
const MAX_HINT: Duration = Duration::from_secs(24 * 3600);
/// Ten years. A longer life is a mistake, and all times fit in a certificate.
const MAX_TTL: Duration = Duration::from_secs(315_576_000);

/// The settings of an agent. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The path of the Workload API socket.
    pub socket: PathBuf,
    /// The registration entries. The first match is a caller's default identity. All are of one
    /// trust domain, which is the agent's.
    pub entries: Vec<Entry>,
    /// The life of X.509-SVIDs; 1 h by default. The next one is issued at half of it.
    pub x509_ttl: Duration,
    /// The life of JWT-SVIDs; 5 min by default.
    pub jwt_ttl: Duration,
    /// The life of the CA; 24 h by default. It is replaced at half of it.
    pub ca_ttl: Duration,
    /// The period after which all X.509-SVIDs are issued again, in addition to half of their life.
    pub rotate_x509_every: Option<Duration>,
    /// The period after which the JWT key is replaced; never if absent.
    pub rotate_jwt_key_every: Option<Duration>,
    /// The period after which the CA is replaced, if that is sooner than half of its life.
    pub rotate_ca_every: Option<Duration>,
    /// Trust bundles of other trust domains, given to every workload.
    pub federated: Vec<FederatedBundle>,
    /// Other trust domains whose bundles the agent fetches, for every workload.
    pub partners: Vec<Partner>,
    /// The endpoint that serves the own bundle to other trust domains.
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// The endpoint for validators that do not speak SPIFFE. It needs an issuer.
    pub oidc_endpoint: Option<OidcEndpoint>,
    /// The claim `iss` of JWT-SVIDs, an https URL; absent by default.
    pub jwt_issuer: Option<String>,
}

impl Config {
    /// Returns the default settings for these entries on this socket.
    pub fn new(socket: impl Into<PathBuf>, entries: Vec<Entry>) -> Self {
        Self {
            socket: socket.into(),
            entries,
            x509_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
            ca_ttl: Duration::from_secs(24 * 3600),
            rotate_x509_every: None,
            rotate_jwt_key_every: None,
            rotate_ca_every: None,
            federated: Vec::new(),
            partners: Vec::new(),
            bundle_endpoint: None,
            oidc_endpoint: None,
            jwt_issuer: None,
        }
    }

    /// Checks the settings without a start. Returns the trust domain of the entries.
    ///
    /// # Errors
    /// Fails with the first setting that is refused, and the reason.
    pub fn check(&self) -> Result<TrustDomain, Error> {
        let trust_domain = self.check_entries()?;
        self.check_times()?;
        let bootstrap = self.partners.iter().filter_map(Partner::bootstrap);
        let bundles: Vec<_> = self.federated.iter().chain(bootstrap).cloned().collect();
        federation::check(&trust_domain, &bundles)?;
        self.check_partners(&trust_domain)?;
        self.check_endpoints(&trust_domain)?;
        Ok(trust_domain)
    }

    /// Returns the longest life of any X.509-SVID.
    pub(crate) fn max_x509_ttl(&self) -> Duration {
        let own = self.entries.iter().filter_map(Entry::x509_ttl);
        own.fold(self.x509_ttl, Duration::max)
    }

    /// Returns the longest life of any JWT-SVID.
    pub(crate) fn max_jwt_ttl(&self) -> Duration {
        let own = self.entries.iter().filter_map(Entry::jwt_ttl);
        own.fold(self.jwt_ttl, Duration::max)
    }

    fn check_entries(&self) -> Result<TrustDomain, Error> {
        let Some(first) = self.entries.first() else {
            return Err(Error::entry(
                "",
                "there is none; an agent without entries issues no identity",
            ));
        };
        let trust_domain = first.id().trust_domain();
        for entry in &self.entries {
            if entry.id().trust_domain() != trust_domain {
                return Err(Error::entry(
                    entry.to_string(),
                    format!(
                        "it is not of trust domain '{trust_domain}' as the first entry; start another agent for it"
                    ),
                ));
            }
        }
        if self.entries.len() > MAX_ENTRIES {
            return Err(Error::setting(
                "entry",
                format!("{} are more than {MAX_ENTRIES}", self.entries.len()),
            ));
        }
        Ok(trust_domain.clone())
    }

    /// Warns of settings that other libraries' clients do not accept.
    pub(crate) fn warn(&self) {
        let (entries, bundles) = (self.entries.len(), self.federated.len());
        if entries > LIBRARY_ENTRIES || bundles > federation::LIBRARY_BUNDLES {
            warn!(
                entries,
                bundles,
                "clients of the Rust spiffe crate accept {LIBRARY_ENTRIES} SVIDs and {} bundles by default",
                federation::LIBRARY_BUNDLES
            );
        }
    }

    /// Refuses a trust domain that has two endpoints, or whose endpoint could not be verified.
    fn check_partners(&self, own: &TrustDomain) -> Result<(), Error> {
        let mut known: HashSet<_> = self.federated.iter().map(|b| b.trust_domain()).collect();
        known.extend(self.partners.iter().map(Partner::trust_domain));
        for (index, partner) in self.partners.iter().enumerate() {
            let domain = partner.trust_domain();
            if domain == own {
                let reason = "this is the agent's own trust domain";
                return Err(Error::partner(domain, reason));
            }
            let mut before = self.partners[..index].iter();
            if before.any(|other| other.trust_domain() == domain) {
                let reason = "it has two endpoints; give one";
                return Err(Error::partner(domain, reason));
            }
            partner.check_bootstrap(|trust_domain| {
                let given = |bundle: &FederatedBundle| bundle.trust_domain() == trust_domain;
                trust_domain == own
                    || self.federated.iter().any(given)
                    || trust_domain != domain && known.contains(trust_domain)
            })?;
        }
        Ok(())
    }

    fn check_endpoints(&self, own: &TrustDomain) -> Result<(), Error> {
        if let Some(endpoint) = &self.bundle_endpoint {
            let hint = endpoint.refresh_hint;
            within("bundle-refresh-hint", hint, MIN_HINT, MAX_HINT)?;
            if let EndpointIdentity::Spiffe(Some(id)) = &endpoint.identity
                && id.trust_domain() != own
            {
                return Err(Error::setting(
                    "bundle-endpoint-id",
                    format!("'{id}' is not of trust domain '{own}', whose keys the agent has"),
                ));
            }
        }
        if let Some(issuer) = &self.jwt_issuer {
            check_issuer(issuer).map_err(|reason| Error::setting("jwt-issuer", reason))?;
        } else if self.oidc_endpoint.is_some() {
            let reason = "it needs --jwt-issuer, by which validators know the tokens";
            return Err(Error::setting("oidc-endpoint", reason));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), Error> {
        within("x509-ttl", self.x509_ttl, MIN_X509_TTL, MAX_TTL)?;
        within("jwt-ttl", self.jwt_ttl, MIN_JWT_TTL, MAX_TTL)?;
        within("ca-ttl", self.ca_ttl, MIN_X509_TTL, MAX_TTL)?;
        for entry in &self.entries {
            let of_entry = |result: Result<(), Error>| {
                result.map_err(|error| Error::entry(entry.to_string(), error.to_string()))
            };
            if let Some(ttl) = entry.x509_ttl() {
                of_entry(within("x509-ttl", ttl, MIN_X509_TTL, MAX_TTL))?;
            }
            if let Some(ttl) = entry.jwt_ttl() {
                of_entry(within("jwt-ttl", ttl, MIN_JWT_TTL, MAX_TTL))?;
            }
        }
        for (setting, every) in [
            ("rotate-x509-every", self.rotate_x509_every),
            ("rotate-jwt-key-every", self.rotate_jwt_key_every),
            ("rotate-ca-every", self.rotate_ca_every),
        ] {
            within(
                setting,
                every.unwrap_or(MIN_ROTATION),
                MIN_ROTATION,
                MAX_TTL,
            )?;
        }
        Ok(())
    }
}

/// Refuses an issuer that validators would not accept (OpenID Connect Discovery §3).
fn check_issuer(issuer: &str) -> Result<(), String> {
    let url = issuer.parse::<Uri>().ok();
    let is_good = url.is_some_and(|url| {
        url.scheme_str() == Some("https")
            && url.host().is_some_and(|host| !host.is_empty())
            && !issuer.contains(['?', '#', '@'])
    });
    if is_good {
        return Ok(());
    }
    let issuer = issuer.escape_debug();
    Err(format!(
        "'{issuer}' is not an https URL without query and fragment, such as https://oidc.example.org"
    ))
}

fn within(
    setting: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), Error> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let [value, min, max] = [value, min, max].map(humantime::format_duration);
    Err(Error::setting(
        setting,
        format!("{value} is not between {min} and {max}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[&str]) -> Config {
        let entries = entries.iter().map(|entry| entry.parse().unwrap());
        Config::new("/tmp/x.sock", entries.collect())
    }

    #[test]
    fn the_trust_domain_is_that_of_the_entries_w014() {
        let config = config(&[
            "spiffe://a.test/x=unix:uid:1",
            "spiffe://a.test/y=unix:uid:2",
        ]);
        assert_eq!(config.check().unwrap().as_str(), "a.test");
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name_w059() {
        let good = config(&["spiffe://a.test/x=unix:uid:1"]);
        let second = Duration::from_secs(1);
        for (config, reason) in [
            (config(&[]), "there is none"),
            (
                config(&[
                    "spiffe://a.test/x=unix:uid:1",
                    "spiffe://b.test/y=unix:uid:2",
                ]),
                "entry 'spiffe://b.test/y=unix:uid:2': it is not of trust domain 'a.test'",
            ),
            (
                config(&["spiffe://a.test/x=unix:uid:1"; 10_001]),
                // "W94"
                "entry: 10001 are more than 10000",
            ),
            (
                config(&["spiffe://a.test/x=unix:uid:1;x509-ttl=1s"]),
                "x509-ttl: 1s is not between 2s and 10years",
            ),
            (
                config(&["spiffe://a.test/x=unix:uid:1;jwt-ttl=0s"]),
                "jwt-ttl: 0s is not between 1s and 10years",
            ),
            (
                Config {
                    x509_ttl: second,
                    ..good.clone()
                },
                "x509-ttl: 1s is not between 2s and 10years",
            ),
            (
                Config {
                    jwt_ttl: Duration::MAX,
                    ..good.clone()
                },
                "jwt-ttl: ",
            ),
            (
                Config {
                    rotate_ca_every: Some(second),
                    ..good
                },
                "rotate-ca-every: 1s is not between 2s and 10years",
            ),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
