//! The X.509 authority: root certificates and the leaves under them (X509-SVID §2–§5). Keys live in
//! memory only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey, string::Ia5String,
};
use serde_json::{Value, json};
use spiffe::{SpiffeId, TrustDomain};
use zeroize::{Zeroize, Zeroizing};

use crate::{error::Error, jwk::ec_jwk, random::random_bytes};

/// The most that a peer's clock may be behind ours.
const BACKDATE: Duration = Duration::from_secs(10);

/// A self-signed root of the trust domain, and its key.
pub(crate) struct Ca {
    /// The common name, which no other root has.
    pub(crate) name: String,
    pub(crate) not_after: SystemTime,
    der: Vec<u8>,
    issuer: Issuer<'static, Key>,
}

/// An X.509-SVID: a certificate directly under a root, and its private key.
pub(crate) struct Leaf {
    /// The certificate in DER.
    pub(crate) certificate: Vec<u8>,
    /// The private key, PKCS#8 in DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// The serial number, in hex.
    pub(crate) serial: String,
    pub(crate) not_after: SystemTime,
    not_before: SystemTime,
    reissue_at: SystemTime,
}

/// A private key that is wiped when it is dropped.
struct Key(KeyPair);

impl Ca {
    /// Makes a root for `trust_domain` that lives for `ttl` (X509-SVID §3.2, §4).
    pub(crate) fn new(
        trust_domain: &TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let serial = random_serial()?;
        // Each root has its own name, because verifiers build paths by name.
        let name = format!("dev-agent CA {}", hex(&serial[..4]));
        let not_after = round_up(now + ttl);
        let mut params = CertificateParams::default();
        set_life(&mut params, now - BACKDATE, not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = distinguished(&name);
        params.subject_alt_names = vec![uri(&trust_domain.id_string())?];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

        let key = Key::generate()?;
        let certificate = params
            .self_signed(&key)
            .map_err(|source| failed("CA certificate", source))?;
        Ok(Self {
            name,
            not_after,
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Returns the root certificate in DER.
    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the root certificate in PEM (RFC 7468).
    pub(crate) fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Returns the root as an element of a SPIFFE bundle document, without `use`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = ec_jwk(self.issuer.key().der_bytes());
        jwk["x5c"] = json!([STANDARD.encode(&self.der)]);
        jwk
    }

    /// Issues an X.509-SVID with a fresh key. It lives for `ttl`, but not longer than the root.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Leaf, Error> {
        let not_before = now - BACKDATE;
        let not_after = round_up(now + ttl).min(self.not_after);
        let key = Key::generate()?;
        let serial = random_serial()?;
        let certificate = leaf_params(id, dns_names, &serial, not_before, not_after)?
            .signed_by(&key, &self.issuer)
            .map_err(|source| failed("X.509-SVID", source))?;
        Ok(Leaf {
            certificate: certificate.der().to_vec(),
            key: Zeroizing::new(key.0.serialize_der()),
            serial: hex(&serial),
            not_after,
            not_before,
            reissue_at: reissue_at(now, not_after)?,
        })
    }
}

impl Leaf {
    /// Returns whether the next SVID is due. That is at about half of the life, or when the clock was
    /// set back to before this one became valid.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        now >= self.reissue_at || now < self.not_before
    }
}

impl Key {
    fn generate() -> Result<Self, Error> {
        KeyPair::generate()
            .map(Self)
            .map_err(|source| failed("key", source))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// Returns `der` as text (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

/// Returns the leaf profile of X509-SVID §2 and §4, with SPIRE's key usages.
fn leaf_params(
    id: &SpiffeId,
    dns_names: &[String],
    serial: &[u8],
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut names = vec![uri(&id.to_string())?];
    for dns in dns_names {
        names.push(SanType::DnsName(ia5(dns)?));
    }
    let mut params = CertificateParams::default();
    set_life(&mut params, not_before, not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = distinguished("dev-agent SVID");
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

/// Returns the time of the next issue: half of the life, and a random tenth of that earlier or
/// later. So SVIDs do not all change at the same moment.
fn reissue_at(now: SystemTime, not_after: SystemTime) -> Result<SystemTime, Error> {
    let half = not_after.duration_since(now).unwrap_or_default() / 2;
    let random = u32::from(u16::from_be_bytes(random_bytes()?));
    Ok(now + half * 9 / 10 + half / 5 * random / 65536)
}

/// Returns 128 random bits as a serial number (RFC 5280 §4.1.2.2).
///
/// The top bit is clear, because a serial number is positive. The next bit is set, because the
/// encoding has no leading zeros.
fn random_serial() -> Result<[u8; 16], Error> {
    let mut serial: [u8; 16] = random_bytes()?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "dev-agent, for development only");
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(uri: &str) -> Result<SanType, Error> {
    Ok(SanType::URI(ia5(uri)?))
}

fn ia5(text: &str) -> Result<Ia5String, Error> {
    Ia5String::try_from(text).map_err(|source| failed("certificate", source))
}

fn failed(what: &'static str, source: rcgen::Error) -> Error {
    Error::Certificate { what, source }
}

/// Rounds up to whole seconds, which certificates count. Rounded down, a life of 2 s could be 1 s.
fn round_up(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs() + u64::from(since.subsec_nanos() > 0))
}

fn set_life(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before);
    params.not_after = epoch + since_epoch(not_after);
}

#[cfg(test)]
mod tests;
