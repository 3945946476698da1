//! Generates the documents of bundles, with entries that are odd in one member or more.

use serde_json::{Value, json};

use super::{choices::Choices, tokens::KEYS};

/// Values that a member of a JWK may have.
const MEMBERS: [(&str, &[&str]); 10] = [
    (
        "use",
        &[
            r#""sig""#,
            r#""jwt-svid""#,
            r#""enc""#,
            r#""x509-svid""#,
            r#""wit-svid""#,
            r#""later""#,
            r#""""#,
            "null",
            "1",
        ],
    ),
    (
        "alg",
        &[
            r#""ES256""#,
            r#""ES384""#,
            r#""ES512""#,
            r#""RS256""#,
            r#""PS384""#,
            r#""HS256""#,
            r#""none""#,
            r#""RSA-OAEP""#,
            r#""later""#,
            "null",
            "1",
        ],
    ),
    (
        "key_ops",
        &[
            r#"["verify"]"#,
            r#"["sign"]"#,
            r#"["sign","verify"]"#,
            r#"["verify","verify"]"#,
            r#"["verify","encrypt"]"#,
            r#"["verify","later"]"#,
            r#"["verify",1]"#,
            "[]",
            r#""verify""#,
            "null",
        ],
    ),
    (
        "kty",
        &[
            r#""EC""#, r#""RSA""#, r#""OKP""#, r#""oct""#, r#""AKP""#, r#""ec""#, "null", "1",
        ],
    ),
    (
        "crv",
        &[
            r#""P-256""#,
            r#""P-384""#,
            r#""P-521""#,
            r#""secp256k1""#,
            r#""Ed25519""#,
            r#""P-257""#,
            "null",
            "1",
        ],
    ),
    (
        "kid",
        &[
            r#""ec1""#,
            r#""ec2""#,
            r#""rsa1""#,
            r#""p1""#,
            r#""""#,
            "null",
            "1",
        ],
    ),
    ("x5t", &[r#""AA""#, "null", "1"]),
    ("x5u", &[r#""https://x""#, "null", "1"]),
    ("x5c", &[r#"["AA"]"#, "[]", "null", r#""AA""#]),
    ("d", &[r#""AA""#, "1"]),
];

/// Members that hold a part of a key.
const PARTS: [&str; 4] = ["x", "y", "n", "e"];

/// Returns the documents of two trust domains.
pub fn documents(choices: &mut Choices<'_>) -> [(&'static str, Value); 2] {
    let mut ours: Vec<Value> = KEYS.ours.iter().map(|(_, key)| key.jwk()).collect();
    // A token cannot name a key by an empty `kid`.
    let mut unnamed = ours[0].clone();
    unnamed["kid"] = "".into();
    ours.push(unnamed);
    [
        ("example.org", set(ours, choices)),
        ("partner.example", set(vec![KEYS.partner.jwk()], choices)),
    ]
}

fn set(mut keys: Vec<Value>, choices: &mut Choices<'_>) -> Value {
    for _ in 0..choices.below(5) {
        let at = choices.below(keys.len());
        match choices.below(8) {
            0 | 1 => {}
            2 => keys.insert(
                at,
                choices
                    .of(&[Value::Null, json!({}), json!([]), json!("ec1")])
                    .clone(),
            ),
            3 => keys.push(keys[at].clone()),
            4 => drop(
                keys[at]
                    .as_object_mut()
                    .map(|jwk| jwk.remove(*choices.of(&["kty", "crv", "kid", "x", "n"]))),
            ),
            5 => part(&mut keys[at], choices),
            _ => member(&mut keys[at], choices),
        }
    }
    json!({ "keys": keys })
}

/// Sets a member of a JWK.
fn member(jwk: &mut Value, choices: &mut Choices<'_>) {
    let (name, values) = choices.of(&MEMBERS);
    let value = serde_json::from_str(choices.of::<&str>(values)).expect("JSON");
    if let Some(jwk) = jwk.as_object_mut() {
        jwk.insert((*name).to_owned(), value);
    }
}

/// Damages a part of a key.
fn part(jwk: &mut Value, choices: &mut Choices<'_>) {
    let name = *choices.of(&PARTS);
    let Some(Value::String(part)) = jwk.get_mut(name) else {
        return;
    };
    match choices.below(7) {
        0 => part.insert_str(0, "AA"),
        1 => part.insert_str(0, "AAAA"),
        2 => part.push('='),
        3 => part.push('A'),
        4 => part.truncate(choices.below(part.len() + 1)),
        5 => *part = "AQ".to_owned(),
        _ => {
            let at = choices.below(part.len() + 1);
            part.replace_range(..at, &"A".repeat(at));
        }
    }
}
