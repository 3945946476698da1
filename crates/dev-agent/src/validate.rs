//! Validation of a JWT-SVID for a caller (Workload API §6.2.3). The rules are those of the `spiffe`
//! crate, which servers use themselves.

use std::{collections::BTreeMap, error::Error};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost_types::{ListValue, Struct, Value as ProtoValue, value::Kind};
use serde_json::Value;
use spiffe::JwtSvid;

use crate::{pb, state::Snapshot};

/// The deepest nesting of claims. Readers of protobuf follow 100 messages (C++, Java, Rust), and a
/// level of JSON is up to three messages.
const MAX_DEPTH: usize = 30;
/// The longest SPIFFE ID that readers must accept (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;
/// The claims of another trust domain that our workloads get. Its private claims could mean
/// anything.
const REGISTERED: [&str; 7] = ["sub", "aud", "exp", "iat", "nbf", "iss", "jti"];

/// Validates `token` for `audience`. The error is for the log.
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
    // The crate accepts upper-case schemes and domains.
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

/// Returns the claims of a token that is verified.
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

/// Converts JSON to protobuf. Returns `None` if it is nested deeper than `depth`.
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
    use prost::Message;
    use serde_json::json;

    use super::*;

    /// A reader can't parse an answer that is nested deeper.
    #[test]
    fn claims_deeper_than_protobuf_readers_follow_are_refused_w133() {
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
