//! Public keys as JWKs (RFC 7517, RFC 7518 §6.2).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Returns the JWK of a P-256 key. `point` is uncompressed: 4, x, y (SEC 1 §2.3.3).
pub(crate) fn ec_jwk(point: &[u8]) -> Value {
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
        "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
    })
}

/// Returns the JWK Set (RFC 7517 §5) of `keys`.
pub(crate) fn jwk_set(keys: impl Iterator<Item = Value>) -> String {
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}
