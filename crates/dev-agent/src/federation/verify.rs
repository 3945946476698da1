//! The authentication of a bundle endpoint: by an X.509-SVID (X509-SVID §5), or by a name.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use spiffe::{SpiffeId, cert::spiffe_id_from_der};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A reason that rustls does not know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

/// Verifies that a peer has an X.509-SVID with one SPIFFE ID.
#[derive(Debug)]
struct SpiffeVerifier {
    expected: SpiffeId,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Returns the settings that accept one workload, under these CA certificates in DER.
pub(super) fn by_id(
    expected: &SpiffeId,
    authorities: Vec<Vec<u8>>,
) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.into_iter().map(CertificateDer::from));
    if roots.is_empty() {
        let domain = expected.trust_domain();
        return Err(format!(
            "no X.509 bundle for trust domain {domain}; get a new one from there, and 'dev-agent ctl federate' it"
        ));
    }
    let provider = aws_lc_rs::default_provider();
    let verifier = SpiffeVerifier {
        expected: expected.clone(),
        roots,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finished(config))
}

/// Returns the settings that accept the name in the URL.
pub(super) fn by_name(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    // A connection that resumes a session would skip the verification.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

impl ServerCertVerifier for SpiffeVerifier {
    /// Verifies the path and then the SPIFFE ID. Host names do not matter.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        let signing: Vec<_> = intermediates
            .iter()
            .filter(|one| may_sign(one))
            .cloned()
            .collect();
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &signing, now, algorithms)?;
        let id = workload_id(leaf).map_err(refused)?;
        if id != self.expected {
            return Err(refused(format!("it is {id} and not {}", self.expected)));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns the SPIFFE ID of a workload's certificate (X509-SVID §5.2).
fn workload_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, String> {
    let id = spiffe_id_from_der(leaf).map_err(|error| error.to_string())?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let usage = certificate.key_usage().map_err(|error| error.to_string())?;
    let signs = usage.is_none_or(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    if certificate.is_ca() || signs {
        return Err("its certificate is not that of a workload".to_owned());
    }
    Ok(id)
}

/// Returns whether an intermediate may sign certificates (RFC 5280 §6.1.4(n)). rustls does not check its
/// key usage.
fn may_sign(intermediate: &CertificateDer<'_>) -> bool {
    let certificate = X509Certificate::from_der(intermediate);
    certificate.is_ok_and(|(_, certificate)| match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    })
}

fn refused(reason: String) -> Error {
    Error::Other(OtherError(Arc::new(Reason(reason))))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose};

    use super::*;

    #[test]
    fn only_intermediates_whose_key_usage_says_so_may_sign() {
        use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
        for (usages, expected) in [
            (&[] as &[_], true),
            (&[KeyCertSign], true),
            (&[CrlSign, KeyCertSign], true),
            (&[CrlSign], false),
            (&[DigitalSignature], false),
        ] {
            let mut params = CertificateParams::default();
            params.key_usages = usages.to_vec();
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(may_sign(certificate.der()), expected, "{usages:?}");
        }
        assert!(!may_sign(&CertificateDer::from_slice(b"none")));
    }
}
