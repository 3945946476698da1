//! The parts of a certificate that rustls' verifier does not process.
//!
//! It refuses a chain with such a part, as RFC 5280 §4.2 requires, and does not say which part it is.

use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, NameConstraints, ParsedExtension, X509Extension},
    parse_x509_certificate,
};

use crate::sanitize::Sanitized;

/// The extensions that are processed, by OID (RFC 5280 §4.2.1).
const PROCESSED: [&str; 6] = [
    "2.5.29.15", // keyUsage
    "2.5.29.17", // subjectAltName
    "2.5.29.19", // basicConstraints
    "2.5.29.30", // nameConstraints
    "2.5.29.31", // cRLDistributionPoints
    "2.5.29.37", // extKeyUsage
];

/// The names of extensions that a CA may mark as critical.
const NAMES: [(&str, &str); 6] = [
    ("2.5.29.9", "subjectDirectoryAttributes"),
    ("2.5.29.18", "issuerAltName"),
    ("2.5.29.32", "certificatePolicies"),
    ("2.5.29.33", "policyMappings"),
    ("2.5.29.36", "policyConstraints"),
    ("2.5.29.54", "inhibitAnyPolicy"),
];

/// Describes the first part of a chain (DER, the leaf first) that is not processed. It is a critical
/// extension, or a name constraint over URIs or directory names. The text names it and its certificate.
#[must_use]
pub(crate) fn unprocessed<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    chain.into_iter().enumerate().find_map(|(index, der)| {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let part = certificate.extensions().iter().find_map(part)?;
        Some(format!("{part} of {}", name(index, &certificate)))
    })
}

/// Describes an extension if it is not processed.
fn part(extension: &X509Extension<'_>) -> Option<String> {
    let oid = extension.oid.to_id_string();
    if let ParsedExtension::NameConstraints(constraints) = extension.parsed_extension() {
        let kind = constrained(constraints)?;
        return Some(format!("the name constraint ({oid}) over {kind}"));
    }
    if !extension.critical || PROCESSED.contains(&oid.as_str()) {
        return None;
    }
    let known = NAMES.iter().find(|(known, _)| *known == oid);
    Some(match known {
        Some((_, name)) => format!("the critical extension {name} ({oid})"),
        None => format!("the critical extension {}", Sanitized(oid)),
    })
}

/// Returns the kind of constrained names that is not processed.
fn constrained(constraints: &NameConstraints<'_>) -> Option<&'static str> {
    let subtrees = [
        &constraints.permitted_subtrees,
        &constraints.excluded_subtrees,
    ];
    let mut names = subtrees.into_iter().flatten().flatten();
    names.find_map(|subtree| match subtree.base {
        GeneralName::URI(_) => Some("URIs"),
        GeneralName::DirectoryName(_) => Some("directory names"),
        _ => None,
    })
}

/// Names a certificate by its place in the chain and its subject.
fn name(index: usize, certificate: &X509Certificate<'_>) -> String {
    let subject = certificate.subject().to_string();
    let place = match index {
        0 => "the leaf certificate".to_owned(),
        _ => format!("certificate {} of the chain", index + 1),
    };
    if subject.is_empty() {
        place
    } else {
        format!("{place} ({})", Sanitized(subject))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CustomExtension, DistinguishedName, DnType, GeneralSubtree, IsCa,
        KeyPair, NameConstraints,
    };

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn extension(oid: &[u64], is_critical: bool) -> Vec<u8> {
        certificate(|params| {
            let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0]);
            extension.set_criticality(is_critical);
            params.custom_extensions = vec![extension];
        })
    }

    fn constraint(subtree: GeneralSubtree) -> Vec<u8> {
        certificate(|params| {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, "a\nb");
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![subtree],
                excluded_subtrees: vec![],
            });
        })
    }

    #[test]
    fn the_first_part_that_is_not_processed_is_named_with_its_certificate_t026() {
        let plain = || certificate(|_| ());
        let directory = GeneralSubtree::DirectoryName(DistinguishedName::new());
        for (chain, expected) in [
            (vec![plain(), plain()], None),
            (vec![extension(&[2, 5, 29, 32], false)], None),
            (
                vec![extension(&[2, 5, 29, 32], true)],
                Some(
                    "the critical extension certificatePolicies (2.5.29.32) of the leaf certificate",
                ),
            ),
            (
                vec![plain(), extension(&[2, 5, 29, 54], true)],
                Some(
                    "the critical extension inhibitAnyPolicy (2.5.29.54) of certificate 2 of the chain",
                ),
            ),
            (
                vec![extension(&[1, 2, 3], true)],
                Some("the critical extension 1.2.3 of the leaf certificate"),
            ),
            (
                vec![
                    plain(),
                    constraint(GeneralSubtree::DnsName("a.test".into())),
                ],
                None,
            ),
            (
                vec![plain(), constraint(directory)],
                Some(
                    r"the name constraint (2.5.29.30) over directory names of certificate 2 of the chain (CN=a\nb)",
                ),
            ),
            (vec![b"not a certificate".to_vec()], None),
        ] {
            let found = unprocessed(chain.iter().map(Vec::as_slice));
            assert_eq!(found.as_deref(), expected);
        }
    }
}
