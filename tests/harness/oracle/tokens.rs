//! Generates tokens: signed with any key, with odd members, mutated, and recombined.

use std::sync::LazyLock;

use super::choices::Choices;
use crate::jwt::{self, Draft, Key};

/// The keys that sign.
pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(Keys::new);

/// The most tokens that others are made of.
const MAX_TOKENS: usize = 64;

/// Keys by the part that they have.
pub(super) struct Keys {
    /// Keys of `example.org`, with the algorithms that they sign with.
    pub(super) ours: [(&'static [&'static str], Key); 5],
    /// A key of `partner.example`.
    pub(super) partner: Key,
    /// A key in no bundle, with the name of one of ours.
    stranger: Key,
    /// The public RSA key as a secret, which anybody knows.
    confused: Key,
}

impl Keys {
    fn new() -> Self {
        let rsa = Key::rsa("rsa1");
        Self {
            partner: Key::p256("p1"),
            stranger: Key::p256("ec1"),
            confused: Key::hmac("rsa1", rsa.public_der()),
            ours: [
                (&["ES256"], Key::p256("ec1")),
                (&["ES384"], Key::p384("ec384")),
                (&["ES512"], Key::p521("ec521")),
                (&["RS256", "PS256", "RS384", "PS384", "RS512", "PS512"], rsa),
                (&["ES256"], Key::p256("ec2")),
            ],
        }
    }

    fn any(&self, choices: &mut Choices<'_>) -> (&'static str, &Key) {
        match choices.below(16) {
            13 => ("ES256", &self.partner),
            14 => ("ES256", &self.stranger),
            15 => ("HS256", &self.confused),
            _ => {
                let (algorithms, key) = choices.of(&self.ours);
                (*choices.of::<&str>(algorithms), key)
            }
        }
    }
}

/// Makes tokens, and remembers which key signed what.
#[derive(Default)]
pub struct Mint {
    signed: Vec<(String, &'static Key)>,
}

impl Mint {
    /// Returns a token. Most have been changed after they were signed.
    pub fn token(&mut self, choices: &mut Choices<'_>) -> String {
        if self.signed.len() < 2 || choices.once_in(16) {
            self.sign(choices);
        }
        let mut token = choices.of(&self.signed).0.clone();
        for _ in 0..*choices.of(&[0, 1, 0, 1, 2, 1, 3]) {
            token = self.changed(token, choices);
        }
        token
    }

    /// Returns the keys that signed the first two segments of a token as they are. Tokens of one second
    /// may have the same.
    pub(super) fn signers(&self, token: &str) -> impl Iterator<Item = &'static Key> {
        let message = |token: &str| {
            token
                .rsplit_once('.')
                .map(|(message, _)| message.to_owned())
        };
        let wanted = message(token);
        let signed = self.signed.iter();
        let found = signed.filter(move |(one, _)| message(one) == wanted);
        found.map(|(_, key)| *key)
    }

    /// Signs a token with up to three odd members.
    fn sign(&mut self, choices: &mut Choices<'_>) {
        let (alg, key) = KEYS.any(choices);
        let mut draft = Draft::new(alg, key.kid());
        if choices.once_in(4) {
            draft = draft.no_head("kid");
        }
        for _ in 0..*choices.of(&[0, 1, 0, 1, 2, 0, 3]) {
            draft = odd(draft, choices);
        }
        let token = draft.sign(key);
        if self.signed.len() < MAX_TOKENS {
            self.signed.push((token, key))
        } else {
            self.signed[choices.below(MAX_TOKENS)] = (token, key)
        }
    }

    fn changed(&self, token: String, choices: &mut Choices<'_>) -> String {
        let mut segments: Vec<String> = token.split('.').map(str::to_owned).collect();
        let at = choices.below(segments.len());
        match choices.below(6) {
            0 => {
                let other = &choices.of(&self.signed).0;
                let other = other.split('.').nth(at).unwrap_or_default();
                other.clone_into(&mut segments[at]);
            }
            1 => segments[at] = text(&segments[at], choices),
            2 => {
                if let Some(octets) = decoded(&segments[at]) {
                    segments[at] = jwt::encode(bytes(octets, choices));
                }
            }
            3 => {
                if let Some(json) =
                    decoded(&segments[at]).and_then(|text| String::from_utf8(text).ok())
                {
                    segments[at] = jwt::encode(json_text(json, choices));
                }
            }
            4 => {
                let last = segments.pop().unwrap_or_default();
                segments.push(signature(&last, choices));
            }
            _ => {
                let segment = segments[at].clone();
                let other = choices.below(segments.len());
                match choices.below(3) {
                    0 => segments.swap(at, other),
                    1 => segments.insert(other, segment),
                    _ => drop(segments.remove(at)),
                }
            }
        }
        segments.join(".")
    }
}

fn decoded(segment: &str) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(segment).ok()
}

/// Changes the text of a segment by one character.
fn text(segment: &str, choices: &mut Choices<'_>) -> String {
    let mut text = segment.as_bytes().to_vec();
    let with = *choices.of(b"AQgw0-_=+/~Zz9");
    let at = choices.below(text.len() + 1);
    match (choices.below(3), at < text.len()) {
        (0, true) => text[at] = with,
        (1, true) => drop(text.remove(at)),
        _ => text.insert(at, with),
    }
    String::from_utf8(text).expect("ASCII")
}

/// Changes the octets of a segment at one place.
fn bytes(mut octets: Vec<u8>, choices: &mut Choices<'_>) -> Vec<u8> {
    let at = choices.below(octets.len() + 1);
    match (choices.below(4), at < octets.len()) {
        (0, true) => octets[at] ^= 1 << choices.below(8),
        (1, true) => drop(octets.remove(at)),
        (2, _) => octets.truncate(at),
        _ => octets.insert(at, *choices.of(b"\0 \t\"\\{}[],:01e.-\xff\x80")),
    }
    octets
}

/// Replaces one member of an object's text by another value, or adds one.
fn json_text(json: String, choices: &mut Choices<'_>) -> String {
    let (name, values) = match choices.below(2) {
        0 => *choices.of(&HEADER),
        _ => *choices.of(&CLAIMS),
    };
    let member = format!("\"{name}\":{}", value(values, choices));
    match json.strip_suffix('}') {
        Some("{") | None => format!("{{{member}}}"),
        Some(open) if choices.once_in(2) => format!("{open},{member}}}"),
        Some(open) => format!("{{{member},{}}}", &open[1..]),
    }
}

fn signature(segment: &str, choices: &mut Choices<'_>) -> String {
    let mut octets = decoded(segment).unwrap_or_default();
    let half = octets.len() / 2;
    match choices.below(5) {
        0 => octets.clear(),
        1 => octets.fill(0),
        2 => octets.rotate_left(half),
        3 => octets.insert(0, 0),
        _ => octets.push(0),
    }
    jwt::encode(octets)
}

fn odd(draft: Draft, choices: &mut Choices<'_>) -> Draft {
    let is_header = choices.once_in(2);
    let (name, values) = if is_header {
        *choices.of(&HEADER)
    } else {
        *choices.of(&CLAIMS)
    };
    let value = value(values, choices);
    match (is_header, choices.once_in(8)) {
        (true, false) => draft.head(name, &value),
        (true, true) => draft.head_again(name, &value),
        (false, false) => draft.claim(name, &value),
        (false, true) => draft.claim_again(name, &value),
    }
}

/// Returns one of `values`, with the time in seconds for `NOW` and 2,048 bytes for `LONG`.
fn value(values: &[&str], choices: &mut Choices<'_>) -> String {
    let value = choices.of::<&str>(values);
    value
        .replace("NOW", &jwt::now().to_string())
        .replace("LONG", &"a".repeat(2048))
}

type Values = (&'static str, &'static [&'static str]);

/// Values that a header member may have in place of the right one.
const HEADER: [Values; 4] = [
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
            r#""ec2""#,
            r#""rsa1""#,
            r#""dup""#,
            r#""p1""#,
            r#""""#,
            r#""nobody""#,
            "null",
            "1",
        ],
    ),
    ("typ", &[r#""JWT""#, r#""JOSE""#, r#""jwt""#, "null", "5"]),
    ("crit", &["[]", r#"["exp"]"#]),
];

/// Values that a claim may have, as [`value`] reads them.
const CLAIMS: [Values; 6] = [
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
            r#""spiffe://example.org/LONG""#,
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
            "1",
            "0",
            "-1",
            "NOW0",
            "1.5",
            "1.0000000001",
            "1e3",
            "1e30",
            "null",
            r#""1""#,
            "[]",
        ],
    ),
    ("iat", &["1", "NOW0", "null", r#""x""#, "[]", "1e400", "{}"]),
    (
        "x",
        &["1", r#""\ud800""#, r#"{"a":{"a":1,"a":2}}"#, "[[[[]]]]"],
    ),
];
