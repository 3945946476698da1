//! A JWT authority: one JWK of a bundle, ready to verify (RFC 7517, RFC 7518 §6).

use std::{collections::BTreeSet, sync::OnceLock};

use aws_lc_rs::signature::ParsedPublicKey;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::algorithm::Algorithm;

/// The smallest RSA key, in bits (RFC 7518 §3.3).
const MIN_RSA_BITS: usize = 2048;

/// A public key, and the algorithms that it may verify.
#[derive(Debug)]
pub(crate) struct Key {
    /// The encoded key, as `aws-lc-rs` parses it: an uncompressed point, or RSAPublicKey in DER.
    encoded: Vec<u8>,
    /// The parsed key for each algorithm. It is made at its first use, because one RSA key has six.
    parsed: Vec<(Algorithm, OnceLock<Option<ParsedPublicKey>>)>,
}

/// Compares what the keys verify, and not the state of their parsed forms.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let algorithms = self.parsed.iter().map(|(one, _)| one);
        self.encoded == other.encoded && algorithms.eq(other.parsed.iter().map(|(one, _)| one))
    }
}

/// The reason why a JWK can't be used as a JWT authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyFault {
    /// A type or curve that no JWT-SVID is signed with.
    #[error("its key type is not supported")]
    Type,
    /// A member that is missing, or that has another type or value than it may have.
    #[error("its {0} is invalid")]
    Member(&'static str),
    /// Members that are well-formed and not those of a public key, such as a point off the curve.
    #[error("it is not a public key")]
    NotAKey,
    /// A purpose other than to verify signatures of JWT-SVIDs (RFC 7517 §4.2, §4.3).
    #[error("it is not for JWT-SVID signatures")]
    Purpose,
    /// A key of another kind of SVID, such as `x509-svid` (SPIFFE Trust Domain and Bundle §4.2.2).
    #[error("it is for another kind of SVID")]
    OtherSvid,
    /// A key for other algorithms than the token's.
    #[error("the algorithm of the token is not its own")]
    Algorithm,
    /// An RSA key that is too short (RFC 7518 §3.3).
    #[error("its modulus has {0} bits and not at least 2048")]
    Weak(usize),
}

impl Key {
    /// Reads a JWK.
    ///
    /// # Errors
    /// Fails when no JWT-SVID may be verified with it.
    pub(crate) fn read(jwk: &Value) -> Result<Self, KeyFault> {
        check_purpose(jwk)?;
        let (encoded, mut algorithms) = match string(jwk, "kty")? {
            "EC" => elliptic(jwk)?,
            "RSA" => (rsa(jwk)?, Algorithm::RSA.to_vec()),
            _ => return Err(KeyFault::Type),
        };
        if jwk.get("alg").is_some() {
            let declared = Algorithm::named(string(jwk, "alg")?);
            algorithms.retain(|one| Some(*one) == declared);
        }
        let first = *algorithms.first().ok_or(KeyFault::Member("alg"))?;
        let parsed = algorithms.into_iter().map(|one| (one, OnceLock::new()));
        let key = Self {
            encoded,
            parsed: parsed.collect(),
        };
        match key.parsed(first) {
            Some(_) => Ok(key),
            None => Err(KeyFault::NotAKey),
        }
    }

    /// Returns whether the key may verify signatures of `algorithm`.
    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.parsed.iter().any(|(one, _)| *one == algorithm)
    }

    /// Returns whether `signature` is this key's signature of `message` by `algorithm`.
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let key = self.parsed(algorithm);
        key.is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    /// Returns the parsed key for `algorithm`, unless the key is for others.
    fn parsed(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let (_, parsed) = self.parsed.iter().find(|(one, _)| *one == algorithm)?;
        let parse = || ParsedPublicKey::new(algorithm.verification(), &self.encoded).ok();
        parsed.get_or_init(parse).as_ref()
    }
}

/// Checks `use` and `key_ops`. The Workload API's bundles may leave out `use` (Workload API §6.2.2).
fn check_purpose(jwk: &Value) -> Result<(), KeyFault> {
    let has_use = jwk.get("use").is_some();
    if has_use {
        match string(jwk, "use")? {
            "sig" | "jwt-svid" => {}
            other if other.ends_with("-svid") => return Err(KeyFault::OtherSvid),
            _ => return Err(KeyFault::Purpose),
        }
    }
    let Some(operations) = jwk.get("key_ops") else {
        return Ok(());
    };
    let invalid = KeyFault::Member("key_ops");
    let mut seen = BTreeSet::new();
    for operation in operations.as_array().ok_or(invalid)? {
        let operation = operation.as_str().ok_or(invalid)?;
        let contradicts = matches!(
            operation,
            "encrypt" | "decrypt" | "wrapKey" | "unwrapKey" | "deriveKey" | "deriveBits"
        );
        if !seen.insert(operation) || (has_use && contradicts) {
            return Err(invalid);
        }
    }
    if seen.contains("verify") {
        Ok(())
    } else {
        Err(KeyFault::Purpose)
    }
}

/// Reads an elliptic-curve key (RFC 7518 §6.2.1). Each curve belongs to one algorithm (§3.4).
fn elliptic(jwk: &Value) -> Result<(Vec<u8>, Vec<Algorithm>), KeyFault> {
    let (algorithm, width) = match string(jwk, "crv")? {
        "P-256" => (Algorithm::Es256, 32),
        "P-384" => (Algorithm::Es384, 48),
        "P-521" => (Algorithm::Es512, 66),
        _ => return Err(KeyFault::Type),
    };
    /// Marks an uncompressed point (SEC 1 §2.3.3).
    const UNCOMPRESSED: u8 = 4;
    let mut point = vec![UNCOMPRESSED];
    for name in ["x", "y"] {
        let coordinate = octets(jwk, name)?;
        if coordinate.len() != width {
            return Err(KeyFault::Member(name));
        }
        point.extend(coordinate);
    }
    Ok((point, vec![algorithm]))
}

/// Reads an RSA key (RFC 7518 §6.3.1) as an RSAPublicKey (RFC 8017 A.1.1) in DER.
fn rsa(jwk: &Value) -> Result<Vec<u8>, KeyFault> {
    let (modulus, exponent) = (unsigned(jwk, "n")?, unsigned(jwk, "e")?);
    let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
    if bits < MIN_RSA_BITS {
        return Err(KeyFault::Weak(bits));
    }
    let members = [der(INTEGER, &modulus), der(INTEGER, &exponent)].concat();
    Ok(der(SEQUENCE, &members))
}

/// Reads an unsigned integer, which has at least one octet and no leading zero octet (RFC 7518 §2).
fn unsigned(jwk: &Value, name: &'static str) -> Result<Vec<u8>, KeyFault> {
    let octets = octets(jwk, name)?;
    match octets.first() {
        None | Some(0) => Err(KeyFault::Member(name)),
        Some(_) => Ok(octets),
    }
}

fn octets(jwk: &Value, name: &'static str) -> Result<Vec<u8>, KeyFault> {
    let text = string(jwk, name)?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyFault::Member(name))
}

fn string<'a>(jwk: &'a Value, name: &'static str) -> Result<&'a str, KeyFault> {
    let member = jwk.get(name).and_then(Value::as_str);
    member.ok_or(KeyFault::Member(name))
}

/// DER tags (X.690 §8.3, §8.9).
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;

/// Encodes a value in DER. An integer is unsigned and gets a zero octet where its first bit would
/// otherwise be its sign.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let is_negative = tag == INTEGER && content.first().is_some_and(|first| first & 0x80 != 0);
    let length = content.len() + usize::from(is_negative);
    let mut encoded = vec![tag];
    match length {
        0..0x80 => encoded.push(length as u8),
        0x80..0x100 => encoded.extend([0x81, length as u8]),
        _ => {
            let octets = length.to_be_bytes();
            let octets = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
            encoded.push(0x80 | octets.len() as u8);
            encoded.extend(octets);
        }
    }
    encoded.extend(is_negative.then_some(0));
    encoded.extend(content);
    encoded
}
