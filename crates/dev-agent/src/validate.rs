//! Checking a JWT-SVID on behalf of a caller (Workload API §6.2.3). The rules
//! are those of the `spiffe` crate, as in the servers that check for themselves.

use std::collections::BTreeMap;
use std::error::Error as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::Value;
use spiffe::JwtSvid;

use crate::pb;
use crate::state::Snapshot;

/// How deep claims may be nested. Readers of protobuf follow 100 messages (C++, Java, Rust), and
/// each level of JSON is up to three of them.
const MAX_DEPTH: usize = 30;
/// The longest SPIFFE ID that anybody has to accept (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// What a foreign trust domain may say to our workloads; it may give its other
/// claims any meaning it likes.
const REGISTERED: [&str; 7] = ["sub", "aud", "exp", "iat", "nbf", "iss", "jti"];

/// Checks `token` for `audience`; the error is for the log.
pub(crate) fn validate(
    snapshot: &Snapshot,
    audience: &str,
    token: &str,
) -> Result<pb::ValidateJwtsvidResponse, String> {
    let svid = JwtSvid::parse_and_validate(token, &snapshot.jwt_validators, &[audience]).map_err(
        |error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    )?;
    let spiffe_id = svid.spiffe_id().to_string();
    // The crate takes upper-case schemes and domains for the lower-case ones.
    if svid.claims().sub() != spiffe_id || spiffe_id.len() > MAX_ID {
        return Err("the subject is not a SPIFFE ID in its canonical form".to_owned());
    }
    if svid.key_id().is_empty() {
        return Err("the key ID is empty".to_owned());
    }
    let own = svid.spiffe_id().trust_domain() == &snapshot.trust_domain;
    Ok(pb::ValidateJwtsvidResponse {
        spiffe_id,
        claims: Some(claims(token, own)?),
    })
}

/// The claims of a token that has been verified.
fn claims(token: &str, own: bool) -> Result<Struct, String> {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|error| error.to_string())?;
    let Ok(Value::Object(mut claims)) = serde_json::from_slice(&payload) else {
        return Err("the claims are not a JSON object".to_owned());
    };
    if let Some(audience @ Value::String(_)) = claims.get_mut("aud") {
        *audience = Value::Array(vec![audience.take()]);
    }
    let fields = claims
        .into_iter()
        .filter(|(name, _)| own || REGISTERED.contains(&name.as_str()))
        .map(|(name, value)| Some((name, proto(value, MAX_DEPTH)?)))
        .collect::<Option<_>>()
        .ok_or("the claims are nested too deep for protobuf")?;
    Ok(Struct { fields })
}

/// JSON as protobuf has it, unless it is nested deeper than this.
fn proto(value: Value, depth: usize) -> Option<ProtoValue> {
    let depth = depth.checked_sub(1)?;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values
                .into_iter()
                .map(|value| proto(value, depth))
                .collect::<Option<_>>()?,
        }),
        Value::Object(members) => {
            let fields: Option<BTreeMap<_, _>> = members
                .into_iter()
                .map(|(name, value)| Some((name, proto(value, depth)?)))
                .collect();
            Kind::StructValue(Struct { fields: fields? })
        }
    };
    Some(ProtoValue { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    /// Nobody could read the answer.
    #[test]
    fn w133_claims_are_as_deep_as_readers_of_protobuf_follow() {
        let nested = |levels: usize| {
            let claims = (0..levels).fold(json!(1), |inside, _| json!({ "a": inside }));
            let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
            claims_of(&format!("x.{payload}.x"))
        };
        let read = nested(MAX_DEPTH).unwrap().encode_to_vec();
        assert!(Struct::decode(&*read).is_ok());
        assert!(nested(MAX_DEPTH + 1).is_err());
        assert!(nested(100).is_err());
    }

    fn claims_of(token: &str) -> Result<Struct, String> {
        claims(token, true)
    }
}
