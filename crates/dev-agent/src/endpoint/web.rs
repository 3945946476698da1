//! A certificate of the web PKI and its key, from PEM.

use std::fmt;

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::error::Error;

/// A certificate with its chain, and its private key.
#[derive(Clone)]
pub struct WebCertificate(CertifiedKey);

impl WebCertificate {
    /// Parses a chain, the leaf first, and the private key of the leaf. Both are PEM.
    ///
    /// # Errors
    /// Fails with [`Error::Setting`], which names the one that can't be used.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = parsed.unwrap_or_default();
        if chain.is_empty() {
            let reason = "the file has no certificates; expected a chain in PEM, the leaf first";
            return Err(Error::setting("web-certificate", reason));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            let reason = "the file has no private key; expected one in PEM, without a password";
            Error::setting("web-key", reason)
        })?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        certified.map(Self).map_err(|error| {
            let reason = format!("it is not the key of --web-certificate: {error}");
            Error::setting("web-key", reason)
        })
    }

    pub(super) fn certified(&self) -> CertifiedKey {
        self.0.clone()
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebCertificate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use spiffe::{SpiffeId, TrustDomain};

    use super::*;
    use crate::authority::{Ca, pem};

    const A_DAY: Duration = Duration::from_secs(24 * 3600);

    /// Returns a certificate and its key in PEM.
    fn issued() -> (String, String) {
        let (now, domain) = (SystemTime::now(), TrustDomain::new("a.test").unwrap());
        let id = SpiffeId::new("spiffe://a.test/x").unwrap();
        let ca = Ca::new(&domain, A_DAY, now).unwrap();
        let leaf = ca.issue(&id, &[], A_DAY, now).unwrap();
        (
            pem("CERTIFICATE", &leaf.certificate),
            pem("PRIVATE KEY", &leaf.key),
        )
    }

    #[test]
    fn files_that_cannot_be_used_are_refused_by_name() {
        let (chain, key) = issued();
        let (_, wrong) = issued();
        let parsed =
            |chain: &str, key: &str| WebCertificate::from_pem(chain.as_bytes(), key.as_bytes());
        assert!(parsed(&chain, &key).is_ok());
        for (chain, key, reason) in [
            ("", &*key, "web-certificate: the file has no certificates"),
            (&key, &key, "web-certificate: the file has no certificates"),
            (&chain, "", "web-key: the file has no private key"),
            (&chain, &chain, "web-key: the file has no private key"),
            (&chain, &wrong, "web-key: it is not the key of"),
        ] {
            let error = parsed(chain, key).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
