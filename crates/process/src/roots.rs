//! CA certificates that verify a peer by its host name.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The reason why a file has no roots.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{0}: {1}; expected a file with the CA's certificates (PEM)")]
    File(String, io::Error),
    /// The file has no certificate, or one that can't be a root.
    #[error("{0}: no usable certificate in it; expected the CA's certificates (PEM)")]
    NoCertificate(String),
}

/// Returns the certificates in a file (PEM).
///
/// # Errors
/// Fails when there is none, or one that can't be a root.
pub fn in_file(path: &Path) -> Result<RootCertStore, Error> {
    let shown = || path.display().to_string();
    let pem = fs::read(path).map_err(|error| Error::File(shown(), error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.is_ok_and(|certificate| roots.add(certificate).is_ok());
        if !added {
            return Err(Error::NoCertificate(shown()));
        }
    }
    if roots.is_empty() {
        Err(Error::NoCertificate(shown()))
    } else {
        Ok(roots)
    }
}

/// Returns the TLS configuration that verifies a peer by its host name against `roots`.
#[must_use]
pub fn verifying(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    // A connection that resumes a session would skip the verification.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_with_what_is_expected() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let error = || in_file(&file).unwrap_err().to_string();
        assert!(error().contains("ca.pem: No such file"));
        for text in [
            "",
            "no PEM",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAAA",
        ] {
            fs::write(&file, text).unwrap();
            assert!(error().contains("no usable certificate in it"), "{text}");
        }
    }
}
