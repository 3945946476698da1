//! The verification of a peer's X.509-SVID (X509-SVID §5).
//!
//! rustls verifies signatures and the path to a trust anchor. The anchors are those of the trust domain of
//! the peer's own SPIFFE ID, so that no trust domain can vouch for another one. The checks beyond the path
//! are here: those of the leaf, and whether an intermediate may sign.
//!
//! The `spiffe-rustls` crate does not serve, because it verifies nobody while this process has no
//! X.509-SVID, and for a moment after each update.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use spiffe::{
    SpiffeId, TrustDomain,
    cert::{error::CertificateError as SpiffeError, spiffe_id_from_der},
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, Oid},
    parse_x509_certificate,
};

use crate::{
    certificate,
    workload::{Unavailable, X509Source},
};

/// The reason why a peer is not the expected workload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No bundle may be used at present, which is not a fault of the peer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The peer's trust domain has no X.509 bundle here.
    #[error("no X.509 bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// The peer's certificate has no SPIFFE ID.
    #[error("its certificate has no SPIFFE ID")]
    MissingSpiffeId,
    /// The peer's certificate has more than one URI (X509-SVID §2).
    #[error("its certificate has more than one URI")]
    MultipleSpiffeIds,
    /// The peer's certificate does not parse.
    #[error("its certificate can't be read: {0}")]
    Malformed(String),
    /// The peer's certificate is not that of a workload (X509-SVID §4, §5.2).
    #[error("its certificate is not an X.509-SVID of a workload: {0}")]
    NotALeaf(&'static str),
    /// The peer's chain has a part that rustls does not process (RFC 5280 §4.2).
    #[error("{0} is not processed")]
    Unprocessed(String),
    /// The peer's certificate is for a workload of a trust domain that is not expected. It is not verified.
    #[error("it presented a SPIFFE ID of trust domain {0}")]
    TrustDomainNotAllowed(TrustDomain),
    /// The peer is verified, and it is another workload than the expected one.
    #[error("it is {0}")]
    UnauthorizedSpiffeId(SpiffeId),
}

/// Verifies that a server is one workload.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    source: X509Source,
    expected: SpiffeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(
        source: X509Source,
        expected: SpiffeId,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            source,
            expected,
            algorithms,
        }
    }

    /// Verifies the path to a trust anchor, with all intermediates and then with those that may sign.
    ///
    /// The first verification returns the error of a path that is bad in any case.
    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let verify = |intermediates: &[CertificateDer<'_>]| {
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)
        };
        verify(intermediates)?;
        if intermediates.iter().all(may_sign) {
            return Ok(());
        }
        verify(&signing(intermediates))
    }
}

impl ServerCertVerifier for ServerVerifier {
    /// Verifies the peer's SPIFFE ID. Host names do not matter.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let id = workload_id(leaf).map_err(rejected)?;
        let domain = id.trust_domain();
        if domain != self.expected.trust_domain() {
            return Err(rejected(PeerError::TrustDomainNotAllowed(domain.clone())));
        }
        let trust = self.source.trust(domain);
        let trust = trust.map_err(|error| rejected(error.into()))?;
        let trust = trust.ok_or_else(|| rejected(PeerError::NoBundle(domain.clone())))?;
        let verified = self.verify_path(leaf, intermediates, &trust.roots, now);
        verified.map_err(|error| explained(error, leaf, intermediates))?;
        if id == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rejected(PeerError::UnauthorizedSpiffeId(id)))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns the error of rustls for a peer that is not accepted.
fn rejected(error: PeerError) -> rustls::Error {
    rustls::Error::Other(OtherError(Arc::new(error)))
}

/// Names the part of a chain that rustls does not process, if the chain is refused for it.
pub(super) fn explained(
    error: rustls::Error,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> rustls::Error {
    // rustls reports such a part as `Other`, as it does all errors without a name of their own.
    if !matches!(
        error,
        rustls::Error::InvalidCertificate(CertificateError::Other(_))
    ) {
        return error;
    }
    let chain = std::iter::once(leaf).chain(intermediates);
    match certificate::unprocessed(chain.map(|one| one.as_ref())) {
        Some(part) => rejected(PeerError::Unprocessed(part)),
        None => error,
    }
}

/// Returns the SPIFFE ID of a certificate, and checks that it is that of a workload.
///
/// The ID is not verified yet. It only selects the bundle that verifies it.
///
/// # Errors
/// Fails when the certificate is not an X.509-SVID of a workload (X509-SVID §5.2).
pub fn workload_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let id = spiffe_id_from_der(leaf).map_err(|error| match error {
        SpiffeError::MissingSpiffeId | SpiffeError::MissingX509Extension(_) => {
            PeerError::MissingSpiffeId
        }
        SpiffeError::MultipleSpiffeIds => PeerError::MultipleSpiffeIds,
        other => PeerError::Malformed(other.to_string()),
    })?;
    let (_, certificate) =
        parse_x509_certificate(leaf).map_err(|error| PeerError::Malformed(error.to_string()))?;
    match fault_of_leaf(&certificate) {
        _ if id.path().is_empty() => Err(PeerError::NotALeaf("its SPIFFE ID has no path")),
        Some(fault) => Err(PeerError::NotALeaf(fault)),
        None => Ok(id),
    }
}

/// Returns the reason why a certificate is not that of a workload (X509-SVID §4.1, §4.3, §5.2).
fn fault_of_leaf(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    match extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS) {
        Ok(Some(ParsedExtension::BasicConstraints(constraints))) if !constraints.ca => {}
        Ok(Some(ParsedExtension::BasicConstraints(_))) => return Some("it is that of a CA"),
        Ok(None) => return Some("it has no basic constraints"),
        _ => return Some("its basic constraints can't be read"),
    }
    match extension(certificate, &OID_X509_EXT_KEY_USAGE) {
        Ok(Some(ParsedExtension::KeyUsage(usage))) => match () {
            () if usage.key_cert_sign() || usage.crl_sign() => {
                Some("its key may sign certificates or revocation lists")
            }
            () if !usage.digital_signature() => Some("its key may not sign handshakes"),
            () => None,
        },
        Ok(None) => Some("it has no key usage"),
        _ => Some("its key usage can't be read"),
    }
}

/// Returns the intermediates that may sign certificates. rustls does not check their key usage.
pub(super) fn signing<'a>(intermediates: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    let signing = intermediates.iter().filter(|one| may_sign(one));
    signing.cloned().collect()
}

/// Returns whether an intermediate may sign certificates. One without a key usage may (RFC 5280
/// §6.1.4(n)); one whose key usage cannot be read may not.
fn may_sign(intermediate: &CertificateDer<'_>) -> bool {
    let Ok((rest, certificate)) = parse_x509_certificate(intermediate) else {
        return false;
    };
    match extension(&certificate, &OID_X509_EXT_KEY_USAGE) {
        Ok(Some(ParsedExtension::KeyUsage(usage))) => rest.is_empty() && usage.key_cert_sign(),
        Ok(None) => rest.is_empty(),
        _ => false,
    }
}

/// Returns an extension, which may occur only once (RFC 5280 §4.2).
fn extension<'a>(
    certificate: &'a X509Certificate<'_>,
    oid: &Oid<'_>,
) -> Result<Option<&'a ParsedExtension<'a>>, ()> {
    let found = certificate.get_extension_unique(oid).map_err(drop)?;
    Ok(found.map(|extension| extension.parsed_extension()))
}
