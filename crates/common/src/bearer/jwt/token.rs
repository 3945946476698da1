//! A token, which is a JWS in compact serialization (RFC 7515 §3.1). It is read in one pass and not
//! verified yet.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::claims::Claims;
use crate::{bearer::TokenFault, jwt_bundle::Algorithm};

#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) jws: Jws<'a>,
    pub(super) claims: Claims,
}

/// A JWS, whose payload is not read.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    /// The octets that the signature is over.
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// A JOSE header. JWT-SVID §2 allows these members and no other.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// Fails when it is not a JWT-SVID, whatever its signature is.
    pub(super) fn read(text: &'a str) -> Result<Self, TokenFault> {
        let jws = Jws::read(text)?;
        let claims = Claims::read(&jws.payload)?;
        Ok(Self { jws, claims })
    }
}

impl<'a> Jws<'a> {
    /// Reads a JWS with the header of a JWT-SVID.
    ///
    /// # Errors
    /// Fails when a segment is missing or not base64url, or when no JWT-SVID has such a header.
    pub(super) fn read(text: &'a str) -> Result<Self, TokenFault> {
        let mut segments = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) else {
            return Err(TokenFault::parse("it does not have three segments"));
        };
        let message = &text.as_bytes()[..header.len() + 1 + payload.len()];
        Ok(Self {
            header: Header::read(&decoded(header)?)?,
            payload: decoded(payload)?,
            message,
            signature: decoded(signature)?,
        })
    }
}

/// Returns the payload of a token that was verified.
///
/// # Errors
/// Fails when it is not base64url.
pub(super) fn payload(text: &str) -> Result<Vec<u8>, TokenFault> {
    decoded(text.split('.').nth(1).unwrap_or_default())
}

/// Decodes base64url. Refuses padding, and bits that no octet needs (RFC 7515 §2, RFC 4648 §3.5).
fn decoded(segment: &str) -> Result<Vec<u8>, TokenFault> {
    let octets = URL_SAFE_NO_PAD.decode(segment);
    octets.map_err(|_| TokenFault::parse("a segment is not base64url"))
}

/// The header as it is written.
#[derive(Default)]
struct Members {
    algorithm: Option<String>,
    key_id: Option<String>,
    typ: Option<String>,
}

impl Header {
    fn read(json: &[u8]) -> Result<Self, TokenFault> {
        let members: Members = serde_json::from_slice(json)
            .map_err(|error| TokenFault::parse(format_args!("invalid JOSE header: {error}")))?;
        if members.typ.is_some_and(|typ| typ != "JWT" && typ != "JOSE") {
            return Err(TokenFault::Type);
        }
        if members.key_id.as_deref() == Some("") {
            return Err(TokenFault::KeyIdMissing);
        }
        let name = members
            .algorithm
            .ok_or_else(|| TokenFault::parse("invalid JOSE header: no alg"))?;
        Ok(Self {
            algorithm: Algorithm::named(&name).ok_or(TokenFault::Algorithm)?,
            key_id: members.key_id,
        })
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Accepts only an object, whereas serde's derived code also accepts an array.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JOSE header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key::<String>()? {
            let member = match name.as_str() {
                "alg" => &mut members.algorithm,
                "kid" => &mut members.key_id,
                "typ" => &mut members.typ,
                _ => return Err(A::Error::custom("a header member that no JWT-SVID has")),
            };
            if member.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom("a header member that is there twice"));
            }
        }
        Ok(members)
    }
}
