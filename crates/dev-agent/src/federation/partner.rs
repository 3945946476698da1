//! Another trust domain, and the parameters of its bundle endpoint (SPIFFE Federation §5.1).

use std::sync::Arc;

use http::Uri;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use spiffe::{SpiffeId, TrustDomain};

use super::{FederatedBundle, verify};
use crate::{endpoint::default_id, entry, error::Error};

/// The way in which the endpoint of another trust domain is authenticated (Federation §5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartnerProfile {
    /// The endpoint presents an X.509-SVID.
    HttpsSpiffe {
        /// The SPIFFE ID of the endpoint, `spiffe://TRUST-DOMAIN/spire/server` by default.
        id: Option<String>,
        /// The bundle document that verifies the endpoint for the first time.
        bundle: Option<String>,
    },
    /// The endpoint presents a certificate with the host of the URL.
    HttpsWeb {
        /// The CA certificates in PEM, the system's by default.
        ca: Option<String>,
    },
}

/// Another trust domain whose bundle the agent fetches.
#[derive(Clone, Debug)]
pub struct Partner {
    trust_domain: TrustDomain,
    url: Uri,
    pub(super) authentication: Authentication,
    bootstrap: Option<FederatedBundle>,
}

#[derive(Clone, Debug)]
pub(super) enum Authentication {
    Spiffe(SpiffeId),
    Web(Arc<ClientConfig>),
}

impl Partner {
    /// Checks the parameters of a bundle endpoint.
    ///
    /// # Errors
    /// Fails with [`Error::Partner`] or [`Error::Federated`], and the parameter that is refused.
    pub fn new(
        trust_domain: TrustDomain,
        url: &str,
        profile: PartnerProfile,
    ) -> Result<Self, Error> {
        let refuse = |reason| Error::partner(&trust_domain, reason);
        let parsed = parse_url(url).map_err(refuse)?;
        let (authentication, bootstrap) = match profile {
            PartnerProfile::HttpsSpiffe { id, bundle } => {
                let id = match id {
                    Some(id) => entry::parse_id(&id).map_err(refuse)?,
                    None => default_id(&trust_domain)?,
                };
                let parse = |text: String| FederatedBundle::parse(trust_domain.clone(), &text);
                let bundle = bundle.map(parse).transpose()?;
                (Authentication::Spiffe(id), bundle)
            }
            PartnerProfile::HttpsWeb { ca } => {
                let roots = match ca {
                    Some(pem) => in_pem(&pem),
                    None => of_system(),
                };
                let config = roots.and_then(verify::by_name).map_err(refuse)?;
                (Authentication::Web(Arc::new(config)), None)
            }
        };
        Ok(Self {
            trust_domain,
            url: parsed,
            authentication,
            bootstrap,
        })
    }

    /// Returns the trust domain of the bundle.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    pub(super) fn profile(&self) -> &'static str {
        match self.authentication {
            Authentication::Spiffe(_) => "https_spiffe",
            Authentication::Web(_) => "https_web",
        }
    }

    /// Returns the bundle that verifies the endpoint for the first time.
    pub(crate) fn bootstrap(&self) -> Option<&FederatedBundle> {
        self.bootstrap.as_ref()
    }

    /// Refuses an endpoint whose identity could not be verified. `known` tells which trust domains
    /// have a bundle.
    pub(crate) fn check_bootstrap(
        &self,
        known: impl Fn(&TrustDomain) -> bool,
    ) -> Result<(), Error> {
        let Authentication::Spiffe(id) = &self.authentication else {
            return Ok(());
        };
        let domain = id.trust_domain();
        let is_given = self.bootstrap.is_some() && *domain == self.trust_domain;
        if is_given || known(domain) {
            return Ok(());
        }
        let remedy = if *domain == self.trust_domain {
            "add bundle=FILE, with the output of `spire-server bundle show -format spiffe` there"
        } else {
            "federate with that trust domain too"
        };
        Err(Error::partner(
            &self.trust_domain,
            format!(
                "there is no bundle of '{domain}' to verify its endpoint '{id}' with; {remedy}"
            ),
        ))
    }
}

/// Parses the URL of a bundle endpoint (Federation §5.2.1.1, §5.2.2.1).
pub(super) fn parse_url(text: &str) -> Result<Uri, String> {
    let url = text.parse::<Uri>().ok();
    let is_good = |url: &Uri| {
        let authority = url.authority().map_or("", |authority| authority.as_str());
        url.scheme_str() == Some("https") && !authority.is_empty() && !authority.contains('@')
    };
    url.filter(is_good).ok_or_else(|| {
        let text = text.escape_debug();
        format!(
            "'{text}' is not an https URL without a user, such as https://spire.example.com:8443"
        )
    })
}

fn in_pem(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let added = certificate.is_ok_and(|certificate| roots.add(certificate).is_ok());
        if !added {
            return Err("ca=FILE has a certificate that can't be used; expected the CA's certificates in PEM".to_owned());
        }
    }
    if roots.is_empty() {
        return Err(
            "ca=FILE has no usable certificate; expected the CA's certificates in PEM".to_owned(),
        );
    }
    Ok(roots)
}

/// Returns the roots of the system. Those that can't be used are left out.
fn of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("no CA certificates are installed on this system; install them, or name the CA's file with ca=FILE".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spiffe(id: Option<&str>, bundle: Option<&str>) -> PartnerProfile {
        PartnerProfile::HttpsSpiffe {
            id: id.map(str::to_owned),
            bundle: bundle.map(str::to_owned),
        }
    }

    fn partner(url: &str, profile: PartnerProfile) -> Result<Partner, Error> {
        Partner::new(TrustDomain::new("b.test").unwrap(), url, profile)
    }

    #[test]
    fn parameters_that_cannot_work_are_refused_with_value_and_remedy_f008() {
        let url = "https://b.test:8443/bundle";
        let ca = Some("no PEM".to_owned());
        for (url, profile, reason) in [
            (
                "http://b.test",
                spiffe(None, None),
                "'http://b.test' is not an https URL",
            ),
            ("b.test:8443", spiffe(None, None), "is not an https URL"),
            ("https://", spiffe(None, None), "is not an https URL"),
            ("https://me@b.test/", spiffe(None, None), "without a user"),
            (url, spiffe(Some("b.test/x"), None), "b.test/x"),
            (
                url,
                spiffe(None, Some("{}")),
                "the document has no 'keys' array",
            ),
            (
                url,
                PartnerProfile::HttpsWeb { ca },
                "ca=FILE has no usable certificate",
            ),
        ] {
            let error = partner(url, profile).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn endpoint_that_could_not_be_verified_is_refused_f008() {
        let check = |profile, known: &[&str]| {
            let partner = partner("https://b.test", profile).unwrap();
            let checked = partner.check_bootstrap(|domain| known.contains(&domain.as_str()));
            checked.map_err(|error| error.to_string())
        };
        let bundle = Some(r#"{"keys":[]}"#);
        let other = Some("spiffe://c.test/bundles");
        assert_eq!(check(spiffe(None, bundle), &[]), Ok(()));
        assert_eq!(check(spiffe(None, None), &["b.test"]), Ok(()));
        assert_eq!(check(spiffe(other, None), &["c.test"]), Ok(()));
        for (profile, known, reason) in [
            (spiffe(None, None), "c.test", "add bundle=FILE"),
            (spiffe(other, bundle), "b.test", "no bundle of 'c.test'"),
        ] {
            let error = check(profile, &[known]).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
