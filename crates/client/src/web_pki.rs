//! Verification of peers by host name, for load balancers with certificates of the web PKI.

use std::{fs, io, path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};

/// The reason why no peer can be verified by name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file can't be read.
    #[error("--ca {0}: {1}; expected a file with the CA's certificates (PEM)")]
    File(String, io::Error),
    /// The file has no certificate, or one that can't be a root.
    #[error("--ca {0}: no usable certificate in it; expected the CA's certificates (PEM)")]
    NoCertificate(String),
    /// The system has no roots.
    #[error(
        "no CA certificates are installed on this system; install them (Debian: apt-get install ca-certificates), or name the CA's file with --ca"
    )]
    NoRoots,
}

/// Returns the configuration that verifies peers by name, against the certificates in the file `ca`
/// (PEM), or against the system's roots.
///
/// # Errors
/// Fails when there is no certificate to verify against.
pub(crate) fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match ca {
        Some(path) => in_file(path)?,
        None => of_system()?,
    };
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    // A connection that resumes a session would skip the verification.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn in_file(path: &Path) -> Result<RootCertStore, Error> {
    let shown = || path.display().to_string();
    let pem = fs::read(path).map_err(|error| Error::File(shown(), error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.is_ok_and(|certificate| roots.add(certificate).is_ok());
        if !added {
            return Err(Error::NoCertificate(shown()));
        }
    }
    match roots.is_empty() {
        true => Err(Error::NoCertificate(shown())),
        false => Ok(roots),
    }
}

/// Returns the roots of the system (or of `SSL_CERT_FILE` and `SSL_CERT_DIR`). Those that can't be used
/// are left out, as other programs do.
fn of_system() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(Error::NoRoots),
        false => Ok(roots),
    }
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
