//! The certificate and the key of an X.509-SVID, as rustls presents them.

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use spiffe::svid::x509::X509Svid;

/// Converts the SVID's chain and key for rustls, and checks that they match.
pub(crate) fn certified_key(svid: &X509Svid) -> Result<CertifiedKey, rustls::Error> {
    let chain = svid
        .cert_chain()
        .iter()
        .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()))
        .collect();
    // Borrows the key because the SVID wipes its own when it is dropped, and a copy would stay.
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes());
    let key = CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&key.into())?);
    key.keys_match()?;
    Ok(key)
}
