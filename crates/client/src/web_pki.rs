//! Verification of peers by host name, for load balancers with certificates of the web PKI.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use process::roots;
use rustls::{ClientConfig, RootCertStore};

/// A file of a CA's certificates (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CaFile {
    /// The path.
    pub(crate) path: PathBuf,
    /// The setting that names it, as errors begin: `--ca ` or `--route ca=`.
    pub(crate) setting: &'static str,
}

/// The reason why no peer can be verified by name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file has no roots.
    #[error("{0}{1}")]
    File(&'static str, roots::Error),
    /// The system has no roots.
    #[error(
        "no CA certificates are installed on this system; install them (Debian: apt-get install ca-certificates), or name the CA's file with --ca, or with ca= of --route"
    )]
    NoRoots,
}

/// Returns the configuration that verifies peers by name, against the certificates in the file `ca`,
/// or against the system's roots.
///
/// # Errors
/// Fails when there is no certificate to verify against.
pub(crate) fn client(ca: Option<&CaFile>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match ca {
        Some(ca) => roots::in_file(&ca.path).map_err(|error| Error::File(ca.setting, error))?,
        None => of_system()?,
    };
    Ok(roots::verifying(roots))
}

/// Returns the roots of the system (or of `SSL_CERT_FILE` and `SSL_CERT_DIR`), which are loaded once. Those that
/// can't be used are left out, as other programs do.
fn of_system() -> Result<RootCertStore, Error> {
    static LOADED: OnceLock<RootCertStore> = OnceLock::new();
    let roots = LOADED.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    if roots.is_empty() {
        Err(Error::NoRoots)
    } else {
        Ok(roots.clone())
    }
}
