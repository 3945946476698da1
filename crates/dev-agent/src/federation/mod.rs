//! Trust bundles of other trust domains, as SPIFFE bundle documents (Trust Domain and Bundle §4):
//! JWK Sets in which `use` tells X.509 from JWT authorities.
//!
//! - `partner`: another trust domain with a bundle endpoint.
//! - `follow`: fetches the bundles of partners periodically; `fetch` does it once, and `verify`
//!   authenticates the endpoint.

mod fetch;
pub(crate) mod follow;
mod partner;
mod verify;

use std::{collections::HashSet, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use spiffe::TrustDomain;
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

pub use self::partner::{Partner, PartnerProfile};
use crate::{error::Error, json};

/// The largest document in bytes. Larger ones are refused before they are parsed.
const MAX_DOCUMENT: usize = 1 << 20;
/// The most bundles, which is the most that this project's own binaries accept from an agent.
const MAX_BUNDLES: usize = 10_000;
/// The most bundles that sources of the Rust `spiffe` crate accept by default.
pub(crate) const LIBRARY_BUNDLES: usize = 200;
/// The largest sum of documents in bytes. A gRPC message has at most 4 MiB, and the SVIDs need room
/// too.
const MAX_TOTAL: usize = 3 << 20;
const MIN_RSA_BITS: usize = 2048;
/// The members of private and symmetric keys, which public keys do not have (RFC 7518 §6).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The trust bundle of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedBundle {
    trust_domain: TrustDomain,
    document: String,
    certificates: Vec<Vec<u8>>,
    jwks: Vec<Value>,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
    /// The public key of each member, by which keys are compared whatever their IDs are.
    fingerprints: Vec<String>,
}

impl FederatedBundle {
    /// Parses a SPIFFE bundle document. Keys of an unknown type or use are left out (§4.1.3). A
    /// document is refused for a fault of a known key.
    ///
    /// # Errors
    /// Fails with [`Error::Federated`] and the reason.
    pub fn parse(trust_domain: TrustDomain, document: &str) -> Result<Self, Error> {
        let mut bundle = Self {
            trust_domain,
            document: document.to_owned(),
            certificates: Vec::new(),
            jwks: Vec::new(),
            sequence: None,
            refresh_hint: None,
            fingerprints: Vec::new(),
        };
        bundle
            .read()
            .map_err(|reason| Error::federated(bundle.trust_domain.id_string(), reason))?;
        Ok(bundle)
    }

    /// Returns the trust domain of the keys.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the document that was parsed.
    #[must_use]
    pub fn document(&self) -> &str {
        &self.document
    }

    /// Returns the sequence number, by which two bundles of one trust domain are ordered (Bundle
    /// §4.1.1).
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Returns the period at which the issuer wants the bundle to be fetched (Bundle §4.1.2).
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// Returns the CA certificates in DER.
    pub(crate) fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// Returns the number of JWT keys.
    pub(crate) fn jwt_keys(&self) -> usize {
        self.jwks.len()
    }

    /// Returns the CA certificates in DER, concatenated.
    pub(crate) fn x509_bundle(&self) -> Vec<u8> {
        self.certificates.concat()
    }

    /// Returns the JWT keys without `use`, as the Workload API has them.
    pub(crate) fn jwks(&self) -> impl Iterator<Item = Value> {
        self.jwks.iter().cloned()
    }

    fn read(&mut self) -> Result<(), String> {
        if self.document.len() > MAX_DOCUMENT {
            return Err(format!("the document is longer than {MAX_DOCUMENT} bytes"));
        }
        let document = json::parse(self.document.as_bytes())
            .map_err(|error| format!("the document is not JSON that can be used: {error}"))?;
        let keys = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or("the document has no 'keys' array; `spire-server bundle show -format spiffe` prints one")?;
        self.sequence = whole_number(&document, "spiffe_sequence")?;
        let hint = whole_number(&document, "spiffe_refresh_hint")?;
        self.refresh_hint = hint.map(Duration::from_secs);
        for (index, key) in keys.iter().enumerate() {
            self.add(key)
                .map_err(|reason| format!("key {} of {}: {reason}", index + 1, keys.len()))?;
        }
        Ok(())
    }

    fn add(&mut self, key: &Value) -> Result<(), String> {
        if text(key, "kty") == Ok("oct") || SECRET_MEMBERS.iter().any(|m| key.get(m).is_some()) {
            return Err("it is a secret key; a bundle has public keys only".to_owned());
        }
        match text(key, "use") {
            Ok("x509-svid") => self.add_certificate(key),
            Ok("jwt-svid") => self.add_jwk(key),
            _ => Ok(()),
        }
    }

    fn add_certificate(&mut self, key: &Value) -> Result<(), String> {
        let chain = key.get("x5c").and_then(Value::as_array);
        let der = match chain.map(Vec::as_slice) {
            Some([Value::String(text)]) => STANDARD
                .decode(text)
                .map_err(|error| format!("'x5c' is not base64: {error}"))?,
            _ => return Err("'x5c' is not an array of one certificate".to_owned()),
        };
        let Ok(([], certificate)) = X509Certificate::from_der(&der) else {
            return Err("'x5c' is not a certificate in DER".to_owned());
        };
        if !certificate.is_ca() {
            return Err("the certificate is not a CA certificate".to_owned());
        }
        if let Ok(PublicKey::RSA(rsa)) = certificate.public_key().parsed() {
            check_rsa(rsa.modulus)?;
        }
        self.fingerprints
            .push(STANDARD.encode(certificate.public_key().raw));
        self.certificates.push(der);
        Ok(())
    }

    fn add_jwk(&mut self, key: &Value) -> Result<(), String> {
        let kid = text(key, "kid")?;
        if kid.is_empty() || self.jwks.iter().any(|jwk| jwk["kid"] == kid) {
            return Err(format!("its 'kid' {kid:?} is empty or another key's too"));
        }
        let Some(mut jwk) = public_members(key)? else {
            return Ok(());
        };
        self.fingerprints.push(jwk.to_string());
        jwk["kid"] = kid.into();
        self.jwks.push(jwk);
        Ok(())
    }
}

/// Adds a bundle, in place of another one of its trust domain.
pub(crate) fn replace(bundles: &mut Vec<FederatedBundle>, bundle: FederatedBundle) {
    bundles.retain(|other| other.trust_domain() != bundle.trust_domain());
    bundles.push(bundle);
}

/// Refuses bundles that share a trust domain or a key, bundles of the agent's own trust domain, and
/// too many bundles.
pub(crate) fn check(own: &TrustDomain, bundles: &[FederatedBundle]) -> Result<(), Error> {
    if bundles.len() > MAX_BUNDLES {
        return Err(Error::setting(
            "federated bundles",
            format!("{} are more than {MAX_BUNDLES}", bundles.len()),
        ));
    }
    if bundles.iter().map(|b| b.document.len()).sum::<usize>() > MAX_TOTAL {
        return Err(Error::setting(
            "federated bundles",
            format!("all together are longer than {MAX_TOTAL} bytes"),
        ));
    }
    let mut domains = HashSet::from([own]);
    let mut keys = HashSet::new();
    for bundle in bundles {
        let refuse = |reason: &str| Err(Error::federated(bundle.trust_domain.id_string(), reason));
        if bundle.trust_domain == *own {
            return refuse("this is the agent's own trust domain");
        }
        if !domains.insert(&bundle.trust_domain) {
            return refuse("this trust domain has two bundles; give one");
        }
        let its_keys: HashSet<&String> = bundle.fingerprints.iter().collect();
        if !keys.is_disjoint(&its_keys) {
            return refuse("one of its keys is another trust domain's too");
        }
        keys.extend(its_keys);
    }
    Ok(())
}

/// Returns the members that define the key, in their canonical form. Returns `None` for a type that
/// readers do not have to know (§4.2.1).
fn public_members(key: &Value) -> Result<Option<Value>, String> {
    let length = match (text(key, "kty")?, text(key, "crv")) {
        ("RSA", _) => {
            check_rsa(&decode(key, "n")?)?;
            decode(key, "e")?;
            return Ok(Some(json!({ "kty": "RSA", "n": key["n"], "e": key["e"] })));
        }
        ("EC", Ok("P-256")) => 32,
        ("EC", Ok("P-384")) => 48,
        ("EC", Ok("P-521")) => 66,
        _ => return Ok(None),
    };
    for name in ["x", "y"] {
        if decode(key, name)?.len() != length {
            return Err(format!("'{name}' is not of {length} bytes"));
        }
    }
    Ok(Some(
        json!({ "kty": "EC", "crv": key["crv"], "x": key["x"], "y": key["y"] }),
    ))
}

/// Refuses RSA keys that are too short.
fn check_rsa(modulus: &[u8]) -> Result<(), String> {
    let digits = modulus.iter().skip_while(|&&byte| byte == 0);
    let bits = digits.clone().count() * 8
        - digits
            .take(1)
            .map(|byte| byte.leading_zeros() as usize)
            .sum::<usize>();
    if bits < MIN_RSA_BITS {
        return Err(format!(
            "RSA keys have {MIN_RSA_BITS} bits or more, this has {bits}"
        ));
    }
    Ok(())
}

fn decode(key: &Value, name: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD
        .decode(text(key, name)?)
        .map_err(|error| format!("'{name}' is not base64url: {error}"))
}

/// Returns a member that is a number if it is there.
fn whole_number(document: &Value, name: &str) -> Result<Option<u64>, String> {
    let member = document.get(name);
    let Some(value) = member else {
        return Ok(None);
    };
    let number = value.as_u64();
    number
        .map(Some)
        .ok_or_else(|| format!("'{name}' is not a whole number"))
}

fn text<'a>(key: &'a Value, name: &str) -> Result<&'a str, String> {
    key.get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("it has no '{name}' that is a string"))
}

#[cfg(test)]
mod tests;
