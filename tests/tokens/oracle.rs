//! Compares verdicts on generated tokens with those of the `spiffe` crate.

use std::{collections::BTreeMap, env};

use fastrand::Rng;
use serde_json::Value;

use harness::{
    jwt::{Draft, Key, now},
    oracle::{Verdict, compare},
};

use crate::world::WORLD;

/// Tokens of one run; `ORACLE_TOKENS` sets another number.
const TOKENS: u64 = 3000;

/// Values that a header member may have, beside its right one.
const HEADER: [(&str, &[&str]); 4] = [
    (
        "alg",
        &[
            r#""ES256""#,
            r#""ES384""#,
            r#""ES512""#,
            r#""RS256""#,
            r#""PS256""#,
            r#""none""#,
            r#""es256""#,
            "null",
            "1",
        ],
    ),
    (
        "kid",
        &[
            r#""ec1""#,
            r#""ec384""#,
            r#""ec521""#,
            r#""rsa1""#,
            r#""dup""#,
            r#""p1""#,
            r#""""#,
            r#""nobody""#,
            "null",
            "1",
            r#""ed1""#,
            r#""oct1""#,
        ],
    ),
    ("typ", &[r#""JWT""#, r#""JOSE""#, r#""jwt""#, "null", "5"]),
    ("crit", &["[]", r#"["exp"]"#]),
];

/// Values that a claim may have, with `NOW` for the time in seconds.
const CLAIMS: [(&str, &[&str]); 6] = [
    (
        "sub",
        &[
            r#""spiffe://example.org/client""#,
            r#""spiffe://partner.example/client""#,
            r#""spiffe://example.org""#,
            r#""SPIFFE://example.org/client""#,
            r#""spiffe://EXAMPLE.org/client""#,
            r#""spiffe://example.org/a//b""#,
            r#""spiffe://nobody.example/x""#,
            r#""""#,
            "null",
            "[]",
        ],
    ),
    (
        "aud",
        &[
            r#""spiffe://example.org/server""#,
            r#"["spiffe://example.org/server"]"#,
            r#"["x","spiffe://example.org/server"]"#,
            r#""x""#,
            "[]",
            "null",
            r#"[1]"#,
            r#"{}"#,
        ],
    ),
    (
        "exp",
        &[
            "NOW0",
            "1NOW",
            "1",
            "0",
            "-1",
            "NOW.5",
            "1e30",
            "null",
            r#""1""#,
            "253402300799",
            "253402300800",
            "9223372036854775808",
        ],
    ),
    (
        "nbf",
        &[
            "1", "0", "-1", "NOW0", "1.5", "1e3", "1e30", "null", r#""1""#, "[]",
        ],
    ),
    ("iat", &["1", "NOW0", "null", r#""x""#, "[]", "1e400", "{}"]),
    (
        "x",
        &["1", r#""\ud800""#, r#"{"a":{"a":1,"a":2}}"#, "[[[[]]]]"],
    ),
];

/// Signs a token with up to three odd members, by any key, and may break its text.
fn token(rng: &mut Rng) -> String {
    let world = &*WORLD;
    let keys: [(&str, &Key); 7] = [
        ("ES256", &world.ec1),
        ("ES384", &world.ec384),
        ("ES512", &world.ec521),
        ("RS256", &world.rsa1),
        ("PS384", &world.rsa1),
        ("ES256", &world.stranger),
        ("ES256", &world.p1),
    ];
    let (alg, key) = keys[rng.usize(..keys.len())];
    let mut draft = Draft::new(alg, key.kid());
    if rng.u8(..4) == 0 {
        draft = draft.no_head("kid");
    }
    for _ in 0..rng.u8(..4) {
        draft = match rng.bool() {
            true => {
                let (name, values) = HEADER[rng.usize(..HEADER.len())];
                draft.head(name, values[rng.usize(..values.len())])
            }
            false => {
                let (name, values) = CLAIMS[rng.usize(..CLAIMS.len())];
                let value = values[rng.usize(..values.len())];
                draft.claim(name, &value.replace("NOW", &now().to_string()))
            }
        };
    }
    let mut text = draft.sign(key).into_bytes();
    if rng.u8(..4) == 0 {
        let at = rng.usize(..text.len());
        text[at] = b"AQgw0-_.="[rng.usize(..9)];
    }
    String::from_utf8(text).unwrap()
}

/// Every difference to the `spiffe` crate has a known reason, and the tokens reach every verdict.
#[test]
fn verdicts_on_generated_tokens_are_those_of_the_library() {
    let tokens = env::var("ORACLE_TOKENS").map_or(TOKENS, |number| number.parse().unwrap());
    let bundles = WORLD.both_bundles(&[] as &[Value]);
    let mut rng = Rng::with_seed(15);
    let mut verdicts = BTreeMap::new();
    for _ in 0..tokens {
        let verdict = compare(&token(&mut rng), &bundles);
        *verdicts.entry(format!("{verdict:?}")).or_insert(0) += 1;
    }
    for expected in [
        Verdict::Accepted,
        Verdict::Refused,
        Verdict::Different("JWT-SVID §2.2: kid is optional"),
        Verdict::Different("JWT-SVID §2.1 lists ES512"),
    ] {
        assert!(
            verdicts.contains_key(&format!("{expected:?}")),
            "{verdicts:?}"
        );
    }
    println!("{verdicts:#?}");
}
