//! Facts of a certificate (RFC 5280).

mod key;
mod unprocessed;

use std::time::{Duration, SystemTime};

use x509_parser::parse_x509_certificate;

pub(crate) use self::{key::certified_key, unprocessed::unprocessed};

/// Returns `notAfter` of a certificate in DER (RFC 5280 §4.1.2.5), or `None` if it is not a certificate.
#[must_use]
pub fn expiry(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn the_expiry_is_the_one_of_the_certificate() {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(2020, 1, 2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let days = 18_263;
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 60 * 60);
        assert_eq!(expiry(certificate.der()), Some(expected));
        assert_eq!(expiry(b"not a certificate"), None);
    }
}
