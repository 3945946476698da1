//! The claims of a token that is not verified yet (RFC 7519 §4, JWT-SVID §3).

use std::{fmt, mem};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::bearer::TokenFault;

/// The most audiences of one token.
const MAX_AUDIENCES: usize = 32;

/// The last second of the year 9999, which `exp` and `nbf` may not be after.
const MAX_TIME: i64 = 253_402_300_799;

/// The claims that every verification uses. Other claims are skipped, whatever they hold.
#[derive(Debug)]
pub(super) struct Claims {
    /// `sub` as it is written.
    pub(super) subject: String,
    /// `aud`: one or more.
    pub(super) audiences: Vec<String>,
    /// `exp`, in seconds since 1970.
    pub(super) expiry: i64,
    /// `nbf`, in seconds since 1970.
    pub(super) not_before: Option<f64>,
}

impl Claims {
    pub(super) fn read(json: &[u8]) -> Result<Self, TokenFault> {
        serde_json::from_slice(json).map_err(TokenFault::parse)
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key::<String>()? {
            if members.take(&name, &mut map)? {
                return Err(A::Error::custom(format!("{name} is there twice")));
            }
        }
        members.into_claims()
    }
}

/// The claims that were read so far.
#[derive(Default)]
struct Members {
    subject: Option<String>,
    audiences: Option<Audiences>,
    expiry: Option<i64>,
    not_before: Option<f64>,
    has_issuer: bool,
}

impl Members {
    /// Reads the value of the claim `name`. Returns whether the claim occurs a second time, although it
    /// may occur only once.
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        Ok(match name {
            "sub" => self.subject.replace(map.next_value()?).is_some(),
            "aud" => self.audiences.replace(map.next_value()?).is_some(),
            "exp" => self.expiry.replace(map.next_value()?).is_some(),
            "nbf" => self.not_before.replace(map.next_value()?).is_some(),
            "iss" => {
                map.next_value::<IgnoredAny>()?;
                mem::replace(&mut self.has_issuer, true)
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
                false
            }
        })
    }

    fn into_claims<E: serde::de::Error>(self) -> Result<Claims, E> {
        let missing = |name| E::custom(format!("no {name}"));
        let expiry = self.expiry.ok_or_else(|| missing("exp"))?;
        if !(0..=MAX_TIME).contains(&expiry) {
            return Err(E::custom("exp is not a time from 1970 to 9999"));
        }
        if self
            .not_before
            .is_some_and(|time| time.abs() > MAX_TIME as f64)
        {
            return Err(E::custom("nbf is not a time up to 9999"));
        }
        Ok(Claims {
            subject: self.subject.ok_or_else(|| missing("sub"))?,
            audiences: self.audiences.ok_or_else(|| missing("aud"))?.0,
            expiry,
            not_before: self.not_before,
        })
    }
}

/// Returns `iat`, in seconds since 1970. Only the limit of the lifetime uses it. It is therefore read
/// apart from the other claims, and a bad one is an error only there.
///
/// # Errors
/// Fails when `iat` is not a number or occurs twice.
pub(super) fn issued_at(json: &[u8]) -> Result<Option<f64>, TokenFault> {
    let claim: serde_json::Result<IssuedAt> = serde_json::from_slice(json);
    let claim = claim.map_err(|_| TokenFault::parse("iat is not one number"))?;
    Ok(claim.iat)
}

#[derive(Deserialize)]
struct IssuedAt {
    #[serde(default, deserialize_with = "number")]
    iat: Option<f64>,
}

/// Reads a number. `null` is an error.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(deserializer).map(Some)
}

/// A string, or an array of 1 to 32 strings (RFC 7519 §4.1.3).
struct Audiences(Vec<String>);

impl<'de> Deserialize<'de> for Audiences {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AudiencesVisitor)
    }
}

struct AudiencesVisitor;

impl<'de> Visitor<'de> for AudiencesVisitor {
    type Value = Audiences;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an audience or an array of audiences")
    }

    fn visit_str<E>(self, audience: &str) -> Result<Audiences, E> {
        Ok(Audiences(vec![audience.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Audiences, A::Error> {
        let mut audiences = Vec::new();
        while let Some(audience) = values.next_element()? {
            if audiences.len() == MAX_AUDIENCES {
                return Err(A::Error::custom("more than 32 audiences"));
            }
            audiences.push(audience);
        }
        if audiences.is_empty() {
            Err(A::Error::custom("no audience"))
        } else {
            Ok(Audiences(audiences))
        }
    }
}
