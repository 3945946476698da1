//! The X.509-SVID of this process, verified as its peers verify it.

use rustls::{
    client::danger::ServerCertVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::verify::{PeerError, ServerVerifier};
use crate::{
    cause,
    workload::{Unavailable, X509Source},
};

/// The reason why peers refuse the X.509-SVID of this process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitError {
    /// There is no X.509-SVID.
    #[error(transparent)]
    Source(#[from] Unavailable),
    /// Its certificate is not that of a workload, or its trust domain has no bundle.
    #[error("{0}")]
    Peer(String),
    /// The path to a trust anchor is not valid, because of its signatures, times or key usages.
    #[error(transparent)]
    Path(rustls::Error),
}

/// Verifies the source's current X.509-SVID with the source's bundle, as a peer of the same trust domain does.
///
/// # Errors
/// Fails when such a peer would refuse it.
pub fn verify_own(source: &X509Source) -> Result<(), UnfitError> {
    let svid = source.svid()?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let verifier = ServerVerifier::new(source.clone(), svid.spiffe_id().clone(), algorithms);
    let chain = svid.cert_chain().iter();
    let chain: Vec<_> = chain
        .map(|one| CertificateDer::from(one.as_bytes()))
        .collect();
    let leaf = CertificateDer::from(svid.leaf().as_bytes());
    let intermediates = chain.get(1..).unwrap_or_default();
    // A SPIFFE ID is verified whatever the name is.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let verified = verifier.verify_server_cert(&leaf, intermediates, &name, &[], UnixTime::now());
    match verified {
        Ok(_) => Ok(()),
        Err(error) => Err(match cause::find::<PeerError>(&error) {
            Some(fault) => UnfitError::Peer(fault.to_string()),
            None => UnfitError::Path(error),
        }),
    }
}
