//! The verification of callers by their X.509-SVIDs (X509-SVID §5).
//!
//! rustls verifies signatures and the path to a trust anchor. The anchors are those of the trust domain in
//! the caller's own SPIFFE ID, so that no trust domain can vouch for another one.

use std::{error::Error, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use spiffe::{SpiffeId, TrustDomain};

use super::verify::{self, PeerError};
use crate::{bearer::Allow, cause, sanitize::Sanitized, workload::X509Source};

/// The callers that a listener accepts by their certificates.
#[derive(Clone, Debug)]
pub enum Callers {
    /// A caller may present a certificate. One that is presented must be an X.509-SVID.
    Any,
    /// A caller must present an X.509-SVID with one of these SPIFFE IDs.
    Only(Allow),
}

/// The reason why a caller's certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// The caller is not verified.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The caller is verified, and may not connect.
    #[error("{0} may not connect")]
    NotAllowed(SpiffeId),
}

/// Verifies callers with the bundles at the time of each handshake.
#[derive(Debug)]
pub(super) struct CallerVerifier {
    source: X509Source,
    callers: Callers,
    provider: Arc<CryptoProvider>,
}

impl CallerVerifier {
    pub(super) fn new(source: X509Source, callers: Callers, provider: Arc<CryptoProvider>) -> Self {
        Self {
            source,
            callers,
            provider,
        }
    }

    /// Returns rustls' verifier with the authorities of a trust domain.
    fn path_verifier(
        &self,
        domain: &TrustDomain,
    ) -> Result<Arc<dyn ClientCertVerifier>, PeerError> {
        let no_bundle = || PeerError::NoBundle(domain.clone());
        let trust = self.source.trust(domain)?.ok_or_else(no_bundle)?;
        let (roots, provider) = (Arc::clone(&trust.roots), Arc::clone(&self.provider));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        verifier.map_err(|_| no_bundle())
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        matches!(self.callers, Callers::Only(_))
    }

    /// Returns no names, because callers choose their X.509-SVID without them.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let id = verify::workload_id(leaf).map_err(rejected)?;
        let verifier = self.path_verifier(id.trust_domain()).map_err(rejected)?;
        let verified = verifier.verify_client_cert(leaf, &verify::signing(intermediates), now);
        let verified = verified.map_err(|error| verify::explained(error, leaf, intermediates))?;
        match &self.callers {
            Callers::Only(allow) if !allow.allows(&id) => {
                Err(rejected(CallerError::NotAllowed(id)))
            }
            Callers::Any | Callers::Only(_) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Returns the reason why a handshake with a caller failed, if that is the caller's certificate or its
/// absence.
#[must_use]
pub fn refused_certificate(error: &(dyn Error + 'static)) -> Option<Sanitized<String>> {
    let own = cause::find::<CallerError>(error).map(ToString::to_string);
    let own = own.or_else(|| Some(cause::find::<PeerError>(error)?.to_string()));
    let reason = own.or_else(|| match cause::find(error)? {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Some(cause::chain(error))
        }
        _ => None,
    });
    reason.map(Sanitized)
}

/// Returns the error of rustls for a caller that is not accepted.
fn rejected(error: impl Into<CallerError>) -> rustls::Error {
    rustls::Error::Other(OtherError(Arc::new(error.into())))
}
