use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn ca(ttl: Duration, now: SystemTime) -> Ca {
    Ca::new(&TrustDomain::new("example.org").unwrap(), ttl, now).unwrap()
}

fn issue(ca: &Ca, ttl: Duration, now: SystemTime) -> Result<Leaf, Error> {
    let id = SpiffeId::new("spiffe://example.org/a").unwrap();
    ca.issue(&id, &["localhost".to_owned()], ttl, now)
}

fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

fn verify(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) {
    let key = &issuer.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(
            certificate.tbs_certificate.as_ref(),
            &certificate.signature_value.data,
        )
        .unwrap();
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let san = certificate.subject_alternative_name().unwrap().unwrap();
    san.value
        .general_names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect()
}

#[test]
fn the_root_has_the_profile_of_a_signing_certificate_w089() {
    let ca = ca(24 * HOUR, SystemTime::now());
    let root = parse(ca.der());
    assert!(root.is_ca());
    let basic = root.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert!(!usage.value.digital_signature());
    assert!(root.extended_key_usage().unwrap().is_none());
    assert_eq!(names(&root), ["URI(\"spiffe://example.org\")"]);
    verify(&root, &root);
    assert!(ca.pem().starts_with("-----BEGIN CERTIFICATE-----\nMII"));
}

#[test]
fn a_leaf_has_the_profile_of_an_x509_svid_w088() {
    let now = SystemTime::now();
    let ca = ca(24 * HOUR, now);
    let root = parse(ca.der());
    let issued = issue(&ca, HOUR, now).unwrap();
    let leaf = parse(&issued.certificate);

    verify(&leaf, &root);
    assert_eq!(leaf.issuer(), root.subject());
    assert_eq!(
        names(&leaf),
        ["URI(\"spiffe://example.org/a\")", "DNSName(\"localhost\")"],
        "W90: the DNS names of the entry and no others"
    );
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    let has_subject = leaf.subject().iter().next().is_some();
    assert!(san.critical || has_subject, "RFC 5280 §4.2.1.6");
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let serial = leaf.raw_serial();
    assert!(
        (9..=20).contains(&serial.len()) && serial[0] < 0x80,
        "W93: {serial:?}"
    );
}

#[test]
fn a_leaf_names_its_key_and_its_issuer_w089() {
    let now = SystemTime::now();
    let ca = ca(24 * HOUR, now);
    let issued = issue(&ca, HOUR, now).unwrap();
    let (root, leaf) = (parse(ca.der()), parse(&issued.certificate));
    let identifier = |certificate: &X509Certificate<'_>, authority: bool| {
        certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) if !authority => Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) if authority => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                _ => None,
            })
            .unwrap()
    };
    assert_eq!(identifier(&leaf, true), identifier(&root, false));
    assert_ne!(identifier(&leaf, false), identifier(&root, false));
}

#[test]
fn a_leaf_lives_for_its_ttl_but_not_longer_than_its_root_w091() {
    let now = SystemTime::now();
    let seconds = |time: SystemTime| {
        i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
    };
    for (ca_ttl, ttl, life) in [(24 * HOUR, HOUR, HOUR), (HOUR, 24 * HOUR, HOUR)] {
        let issued = issue(&ca(ca_ttl, now), ttl, now).unwrap();
        let validity = parse(&issued.certificate).validity().clone();
        assert_eq!(validity.not_before.timestamp(), seconds(now - BACKDATE));
        assert_eq!(
            validity.not_after.timestamp(),
            seconds(round_up(now + life))
        );
    }
}

#[test]
fn a_leaf_is_due_at_half_of_its_life_w139() {
    let now = SystemTime::now();
    let leaf = issue(&ca(24 * HOUR, now), HOUR, now).unwrap();
    for (time, due) in [
        (now, false),
        (now + HOUR * 44 / 100, false),
        (now + HOUR * 56 / 100, true),
        (now - HOUR, true),
    ] {
        assert_eq!(leaf.is_due(time), due, "W143, W76");
    }
}

/// The key's bytes are wiped when they are dropped. aws-lc wipes the memory that it frees.
#[test]
fn private_keys_are_wiped_w013() {
    fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
    let now = SystemTime::now();
    let issued = issue(&ca(HOUR, now), HOUR, now).unwrap();
    wiped(&issued.key);
    let mut key = Key::generate().unwrap();
    key.0.zeroize();
    assert!(key.0.serialized_der().iter().all(|&byte| byte == 0));
}

#[test]
fn keys_and_serials_are_fresh_w092() {
    let now = SystemTime::now();
    let ca = ca(24 * HOUR, now);
    let (a, b) = (
        issue(&ca, HOUR, now).unwrap(),
        issue(&ca, HOUR, now).unwrap(),
    );
    assert_ne!(a.key, b.key);
    assert_ne!(
        parse(&a.certificate).raw_serial(),
        parse(&b.certificate).raw_serial()
    );
}
