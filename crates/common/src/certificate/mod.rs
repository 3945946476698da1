//! Facts of a certificate (RFC 5280).

mod key;
mod unprocessed;

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, time::ASN1Time};

use crate::sanitize::Sanitized;

pub(crate) use self::{key::certified_key, unprocessed::unprocessed};

/// Returns `notAfter` of a certificate in DER (RFC 5280 §4.1.2.5), or `None` if it is not a certificate.
#[must_use]
pub fn expiry(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    time(certificate.validity().not_after)
}

/// Returns `der` in PEM with this label (RFC 7468 §2). rcgen and x509-parser would need another
/// dependency for it. dev-agent has the same function, because it uses none of the other crates.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

/// Returns a time of a certificate, or `None` if it is before 1970.
fn time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.timestamp().try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds)
}

/// Returns the DNS names of a certificate in DER (RFC 5280 §4.2.1.6). Peers that know no SPIFFE IDs verify
/// them.
#[must_use]
pub fn dns_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = parse_x509_certificate(der) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let dns_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.filter_map(dns_name).collect()
}

/// The facts of a certificate for operators. The texts are sanitized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The time from which on the certificate is valid.
    pub from: SystemTime,
    /// The time at which it expires.
    pub until: SystemTime,
}

/// Returns the facts of a certificate in DER, or `None` if it is not a certificate.
#[must_use]
pub fn facts(der: &[u8]) -> Option<CertificateFacts> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let text = |text: String| Sanitized(text).to_string();
    Some(CertificateFacts {
        subject: text(certificate.subject().to_string()),
        issuer: text(certificate.issuer().to_string()),
        serial: certificate.raw_serial_as_string(),
        from: time(certificate.validity().not_before)?,
        until: time(certificate.validity().not_after)?,
    })
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
        let facts = facts(certificate.der()).unwrap();
        assert_eq!((facts.until, facts.issuer), (expected, facts.subject));
        assert_eq!(super::facts(b"not a certificate"), None);
    }

    #[test]
    fn pem_is_written_in_lines_of_64() {
        let text = pem("CERTIFICATE", &[0; 60]);
        let lines: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(lines, [27, 64, 16, 25]);
    }

    #[test]
    fn names_and_beginning_are_those_of_the_certificate() {
        let names = ["localhost".to_owned(), "a.example".to_owned()];
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.not_before = date_time_ymd(2020, 1, 2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(dns_names(certificate.der()), names);
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(18_263 * 24 * 60 * 60);
        assert_eq!(facts(certificate.der()).unwrap().from, expected);
        assert_eq!(dns_names(b"not a certificate"), [] as [&str; 0]);
    }
}
