use harness::jwt::{Draft, compact, decode, encode};
use http::HeaderValue;
use serde_json::json;
use spiffe::JwtSvid;

use crate::world::{
    Expected::{Accepted, Malformed, Refused, TooLong},
    WORLD,
};

const PARSE: &str = "unable to parse JWT token";
const SIGNATURE: &str = "token signature is invalid";
const BASE64: &str = "a segment is not base64url";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The order of P-256's group (FIPS 186-5, SP 800-186 §3.2.1.3).
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Returns the three parts of a valid token. None has a whole number of base64 quanta.
fn parts() -> [String; 3] {
    let mut draft = WORLD.draft();
    while draft.payload().len().is_multiple_of(3) {
        draft = draft.claim_again("x", " 1");
    }
    while draft.header().len().is_multiple_of(3) {
        draft = draft.head("typ", r#" "JWT""#);
    }
    let token = draft.sign(&WORLD.ec1);
    let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

/// Returns a valid token with `change` applied to its signature.
fn signed(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let [header, payload, signature] = parts();
    format!("{header}.{payload}.{}", encode(change(decode(&signature))))
}

/// Returns a valid token with `change` applied to its part `index`.
fn part(index: usize, change: impl FnOnce(&str) -> String) -> String {
    let mut parts = parts();
    parts[index] = change(&parts[index]);
    parts.join(".")
}

/// Returns another spelling of the same bytes, with the unused bits of the last character changed.
fn respelled(part: &str) -> String {
    let last = part.bytes().last().unwrap();
    let value = ALPHABET.iter().position(|&c| c == last).unwrap();
    let other = char::from(ALPHABET[value ^ 1]);
    assert!(!part.len().is_multiple_of(4), "it has unused bits");
    format!("{}{other}", &part[..part.len() - 1])
}

/// Returns a token with this payload, signed.
fn payload(bytes: &[u8]) -> String {
    let header = WORLD.draft().header();
    compact(header.as_bytes(), bytes, |message| {
        WORLD.ec1.sign("ES256", message)
    })
}

#[test]
fn token_with_other_than_three_segments_is_refused_j133() {
    let [header, body, signature] = parts();
    let refused = Refused(PARSE);
    WORLD.check(&[
        ("J133", "two", format!("{header}.{body}"), refused),
        (
            "J133",
            "four",
            format!("{header}.{body}.{signature}.{signature}"),
            refused,
        ),
        (
            "J133",
            "five, as JWE",
            format!("{header}.{body}.{body}.{body}.{signature}"),
            refused,
        ),
        ("J133", "none", String::new(), Malformed),
        (
            "J134",
            "empty header",
            format!(".{body}.{signature}"),
            refused,
        ),
        (
            "J134",
            "empty payload",
            format!("{header}..{signature}"),
            refused,
        ),
        (
            "J135",
            "empty signature",
            format!("{header}.{body}."),
            Refused(SIGNATURE),
        ),
        (
            "J151",
            "JSON serialization",
            format!(r#"{{"payload":"{body}","signature":"{signature}"}}"#),
            Malformed,
        ),
    ]);
}

#[test]
fn malformed_signatures_are_refused_j136() {
    let w = &*WORLD;
    let other = parts();
    let old = Draft::new("ES256", "ec1").claim("x", "2").sign(&w.ec1);
    let old: Vec<&str> = old.split('.').collect();
    let nested = Draft::new("ES256", "use-sig").sign(&w.ec1);
    let header = nested.split('.').next().unwrap();
    WORLD.check(&[
        (
            "J136",
            "one byte shorter",
            signed(|s| s[..63].to_vec()),
            Refused(SIGNATURE),
        ),
        (
            "J136",
            "one byte longer",
            signed(|s| [s, vec![0]].concat()),
            Refused(SIGNATURE),
        ),
        ("J137", "DER", signed(|s| der(&s)), Refused(SIGNATURE)),
        (
            "J138",
            "r and s swapped",
            signed(|s| [&s[32..], &s[..32]].concat()),
            Refused(SIGNATURE),
        ),
        ("J139", "zeros", signed(|_| vec![0; 64]), Refused(SIGNATURE)),
        (
            "J139",
            "the order of the group",
            signed(|_| [ORDER, ORDER].concat()),
            Refused(SIGNATURE),
        ),
        ("J140", "the other s is as good", signed(other_s), Accepted),
        ("D12", "the other s is as good", signed(other_s), Accepted),
        (
            "J155",
            "another payload",
            [&other[0], old[1], &other[2]].join("."),
            Refused(SIGNATURE),
        ),
        (
            "J155",
            "another header",
            [header, &other[1], &other[2]].join("."),
            Refused(SIGNATURE),
        ),
    ]);
}

#[test]
fn malformed_base64url_is_refused_j141() {
    let last = |index: usize| part(index, respelled);
    WORLD.check(&[
        (
            "J141",
            "unused bits of the signature",
            last(2),
            Refused(BASE64),
        ),
        (
            "J142",
            "unused bits of the payload",
            last(1),
            Refused(BASE64),
        ),
        (
            "J143",
            "unused bits of the header",
            last(0),
            Refused(BASE64),
        ),
        ("D11", "one spelling of a token", last(1), Refused(BASE64)),
        (
            "J144",
            "+",
            part(1, |part| format!("+{}", &part[1..])),
            Refused(BASE64),
        ),
        (
            "J144",
            "/",
            part(0, |part| format!("/{}", &part[1..])),
            Refused(BASE64),
        ),
        (
            "J144",
            "+ in the signature",
            part(2, |part| format!("+{}", &part[1..])),
            Refused(BASE64),
        ),
        (
            "J145",
            "padded signature",
            part(2, |part| format!("{part}==")),
            Refused(BASE64),
        ),
        (
            "J145",
            "padded payload",
            part(1, |part| format!("{part}=")),
            Malformed,
        ),
        (
            "J145",
            "padded header",
            part(0, |part| format!("{part}=")),
            Malformed,
        ),
        (
            "J147",
            "space",
            part(1, |part| format!("{} {}", &part[..4], &part[4..])),
            Malformed,
        ),
        (
            "J147",
            "tab",
            part(1, |part| format!("{}\t{}", &part[..4], &part[4..])),
            Malformed,
        ),
    ]);
}

/// "D11" too: a field value cannot contain a line break, and the library refuses a token that does.
#[test]
fn line_breaks_in_a_token_are_refused_j146() {
    let [header, payload, signature] = parts();
    let broken = [
        format!(
            "{header}.{}\r\n{}.{signature}",
            &payload[..8],
            &payload[8..]
        ),
        format!("{header}.{payload}.{signature}\n"),
        format!("{header}.{payload}.{signature}\r\n"),
    ];
    for token in broken {
        assert!(HeaderValue::from_str(&format!("Bearer {token}")).is_err());
        let bundles = WORLD.both_bundles(&[]).library;
        assert!(JwtSvid::parse_and_validate(&token, &bundles, &[harness::SERVER_ID]).is_err());
    }
}

#[test]
fn malformed_payloads_are_refused_j148() {
    let good = WORLD.draft().payload();
    let with = |value: &[u8]| {
        let open = &good.as_bytes()[..good.len() - 1];
        payload(&[open, br#","x":"#, value, b"}"].concat())
    };
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let inner = WORLD.token(|t| t);
    let refused = Refused("token");
    WORLD.check(&[
        (
            "J148",
            "byte order mark",
            payload(format!("\u{feff}{good}").as_bytes()),
            refused,
        ),
        (
            "J148",
            "comment",
            payload(format!("/**/{good}").as_bytes()),
            refused,
        ),
        (
            "J148",
            "trailing object",
            payload(format!("{good}{{}}").as_bytes()),
            refused,
        ),
        (
            "J149",
            "array",
            payload(
                json!([harness::CLIENT_ID, harness::SERVER_ID, 4_000_000_000_u32])
                    .to_string()
                    .as_bytes(),
            ),
            refused,
        ),
        ("J149", "null", payload(b"null"), refused),
        (
            "J149",
            "another token",
            payload(json!(inner).to_string().as_bytes()),
            refused,
        ),
        ("J150", "not UTF-8", with(b"\"\xff\xfe\""), Accepted),
        (
            "J150",
            "half a surrogate pair",
            with(br#""\ud800""#),
            Accepted,
        ),
        ("J152", "1000 deep", with(deep.as_bytes()), Accepted),
        (
            "J153",
            "60 kB",
            with(format!("\"{}\"", "a".repeat(60_000)).as_bytes()),
            TooLong,
        ),
        (
            "J154",
            "70 kB",
            with(format!("\"{}\"", "a".repeat(70_000)).as_bytes()),
            TooLong,
        ),
        (
            "J154",
            "1 MB",
            with(format!("\"{}\"", "a".repeat(1_000_000)).as_bytes()),
            TooLong,
        ),
        (
            "D15",
            "no segment of more than 64 KiB",
            with(format!("\"{}\"", "a".repeat(70_000)).as_bytes()),
            TooLong,
        ),
    ]);
}

/// Encodes r and s as a DER SEQUENCE of two INTEGERs.
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let sign: &[u8] = if half[0] > 0x7f { &[0] } else { &[] };
        let length = u8::try_from(sign.len() + half.len()).unwrap();
        [&[2, length], sign, half].concat()
    };
    let both = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [vec![0x30, u8::try_from(both.len()).unwrap()], both].concat()
}

/// Replaces s by n - s.
fn other_s(mut signature: Vec<u8>) -> Vec<u8> {
    let mut borrow = 0;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER).rev() {
        let difference = i16::from(order) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    signature
}
