//! Fuzzes the verification of `Authorization` headers and tokens.

use std::{sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::bearer::{Allow, Authenticator, Policy, Refusal, TokenFault};
use futures_util::FutureExt;
use http::{HeaderValue, Request, header::AUTHORIZATION, request::Parts};
use http_body_util::BodyExt;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{at, cut};
use crate::{
    SERVER_ID,
    jwt::{self, Key},
    oracle,
};

/// `skew` allows the clocks to differ by this many seconds.
const SKEW: i64 = 60;

/// `lifetime` limits the life of a token to this many seconds.
const LIFETIME: i64 = 3600;

/// Only `Debug` of the audience can make a log line this long, because other text of a peer is cut.
const LONGEST_LOG: usize = 4096;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// The answer to every invalid token, independent of the fault.
static INVALID_TOKEN: LazyLock<String> = LazyLock::new(|| rendered(TokenFault::Expired.into()));

struct World {
    p256: Key,
    p384: Key,
    rsa: Key,
    /// A key in no bundle, with the `kid` of another.
    stranger: Key,
    /// A key of a trust domain whose workloads are not allowed.
    partner: Key,
    /// The JWKs of our own trust domain.
    ours: Vec<Value>,
    bundles: oracle::Bundles,
}

/// The words of an input's first line.
struct Options<'a>(Vec<&'a [u8]>);

/// Takes an input whose first line holds words. Unknown words have no effect.
///
/// - `skew` allows the clocks to differ by a minute, and `lifetime` limits the life of a token to
///   an hour.
/// - With `raw`, each further line is an `Authorization` header.
/// - Without `raw`, the next line is a JOSE header and the rest is the claims, with `NOW` for the
///   time in seconds. The key `p384`, `rsa`, `stranger`, `partner` or, by default, `p256` signs the
///   token.
///
/// # Panics
/// Panics if a token is accepted that must be refused, or if a refusal discloses too much.
pub fn bearer(input: &[u8]) {
    let (words, rest) = cut(input, b"\n");
    let options = Options(words.split(|&byte| byte == b' ').collect());
    let now = jwt::now();
    let headers: Vec<Vec<u8>> = if options.has("raw") {
        let lines = rest.split(|&byte| byte == b'\n');
        lines.take(4).map(<[u8]>::to_vec).collect()
    } else {
        vec![format!("Bearer {}", options.signed(rest, now)).into()]
    };
    let head = head(&headers);
    let policy = options.policy();
    let authenticator = Authenticator::new(WORLD.bundles.ours.clone(), policy);
    if let Some(token) = only_token(&head) {
        oracle::compare(token, &WORLD.bundles);
    }
    match authenticator.authenticate(&head) {
        Ok(caller) => {
            let caller = caller.expect("no rule is public");
            assert!(
                !options.has("stranger") || options.has("raw"),
                "signed by a stranger"
            );
            assert_eq!(head.headers.get_all(AUTHORIZATION).iter().count(), 1);
            let token = token_in(&head.headers[AUTHORIZATION]);
            check_accepted(token, &caller.id.to_string(), &options, now);
        }
        Err(refusal) => check_refused(refusal, &head),
    }
}

impl World {
    fn new() -> Self {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tokens/vectors.json")).unwrap();
        let vectors = vectors.as_object().unwrap().values();
        let (p256, p384, rsa) = (Key::p256("p256"), Key::p384("p384"), Key::rsa("rsa"));
        let partner = Key::p256("partner");
        let mut ours = vec![p256.jwk(), p384.jwk(), rsa.jwk()];
        ours.extend(vectors.map(|vector| vector["jwk"].clone()));
        // A token cannot name a key by an empty `kid`.
        let mut unnamed = p256.jwk();
        unnamed["kid"] = "".into();
        ours.push(unnamed);
        Self {
            bundles: oracle::Bundles::of(&[
                ("example.org", json!({ "keys": ours })),
                ("partner.example", json!({ "keys": [partner.jwk()] })),
            ]),
            stranger: Key::p256("p256"),
            p256,
            p384,
            rsa,
            partner,
            ours,
        }
    }
}

impl Options<'_> {
    fn has(&self, word: &str) -> bool {
        self.0.contains(&word.as_bytes())
    }

    fn key(&self) -> &'static Key {
        let keys = [
            ("p384", &WORLD.p384),
            ("rsa", &WORLD.rsa),
            ("stranger", &WORLD.stranger),
            ("partner", &WORLD.partner),
        ];
        let named = keys.into_iter().find(|(name, _)| self.has(name));
        named.map_or(&WORLD.p256, |(_, key)| key)
    }

    fn policy(&self) -> Policy {
        let allow: Allow = [("spiffe://example.org/*").parse().unwrap()]
            .into_iter()
            .collect();
        let seconds =
            |on: bool, seconds: i64| on.then(|| Duration::from_secs(seconds.unsigned_abs()));
        let mut policy = Policy::new(vec![SERVER_ID.to_owned()], allow);
        policy.token_cache = 0;
        policy.clock_skew = seconds(self.has("skew"), SKEW).unwrap_or_default();
        policy.max_token_lifetime = seconds(self.has("lifetime"), LIFETIME);
        policy
    }

    fn signed(&self, parts: &[u8], now: i64) -> String {
        let (header, claims) = cut(parts, b"\n");
        let alg = serde_json::from_slice::<Value>(header).unwrap_or_default()["alg"].clone();
        jwt::compact(header, &at(claims, now), |message| {
            self.key().sign(alg.as_str().unwrap_or_default(), message)
        })
    }
}

/// Returns the request as the HTTP layer would, which drops what is not a field value.
fn head(headers: &[Vec<u8>]) -> Parts {
    let mut request = Request::new(());
    for value in headers {
        if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
            request.headers_mut().append(AUTHORIZATION, value);
        }
    }
    request.into_parts().0
}

/// Returns the token, if the request has one `Authorization` header of the scheme.
fn only_token(head: &Parts) -> Option<&str> {
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    value.to_str().ok()?.strip_prefix("Bearer ")
}

fn token_in(value: &HeaderValue) -> &str {
    let value = value.to_str().expect("ASCII, as it was accepted");
    let (scheme, token) = value.split_at(7);
    assert!(scheme.eq_ignore_ascii_case("bearer "), "{value}");
    token.trim_start_matches(' ')
}

/// The claims that matter, each of which may occur once. Other claims are ignored (J150).
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    aud: Value,
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
struct IssuedAt {
    iat: Option<f64>,
}

/// Verifies an accepted token a second time.
fn check_accepted(token: &str, caller: &str, options: &Options<'_>, now: i64) {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    check_header(&read(parts[0]));
    let claims: Claims = read(parts[1]);
    assert_eq!(claims.sub, caller);
    let path = caller.strip_prefix("spiffe://example.org/");
    assert!(
        path.is_some_and(|path| !path.is_empty()) && caller.len() <= 2048,
        "{caller}"
    );
    let is_ours = |audience: &Value| audience == SERVER_ID;
    let all = claims.aud.as_array();
    assert!(
        is_ours(&claims.aud) || all.is_some_and(|all| all.iter().any(is_ours)),
        "{claims:?}"
    );

    let skew = if options.has("skew") { SKEW } else { 0 };
    let earliest = (now - skew) as f64;
    assert!(
        claims.exp > earliest || skew > 0 && claims.exp == earliest,
        "expired: {claims:?}"
    );
    let latest = (jwt::now() + skew) as f64;
    assert!(
        claims.nbf.is_none_or(|nbf| nbf <= latest),
        "not yet: {claims:?}"
    );
    if options.has("lifetime") {
        let IssuedAt { iat } = read(parts[1]);
        let from = iat.unwrap_or(f64::MAX).min(jwt::now() as f64);
        assert!(
            claims.exp - from <= LIFETIME as f64 + 1.0,
            "{iat:?} {claims:?}"
        );
    }
}

/// Checks that the header has an algorithm that its key allows, and otherwise only a key ID and a
/// type (JWT-SVID §2).
fn check_header(header: &Value) {
    for (name, value) in header.as_object().expect("an object") {
        match name.as_str() {
            "alg" => {}
            "kid" => assert_ne!(value, ""),
            "typ" => assert!(
                value.is_null() || value == "JWT" || value == "JOSE",
                "{header}"
            ),
            _ => panic!("{header}"),
        }
    }
    let alg = header["alg"].as_str().expect("a name");
    let is_named = |jwk: &&Value| header.get("kid").is_none_or(|kid| jwk["kid"] == *kid);
    let mut named = WORLD.ours.iter().filter(is_named);
    assert!(named.any(|jwk| algorithms(jwk).contains(&alg)), "{header}");
}

/// Reads a part of a token.
fn read<T: DeserializeOwned>(part: &str) -> T {
    let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Returns the algorithms that a key may verify (JWT-SVID §2.1, RFC 7518 §3.1).
fn algorithms(jwk: &Value) -> &'static [&'static str] {
    match (jwk["kty"].as_str(), jwk["crv"].as_str()) {
        (Some("RSA"), _) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        (Some("EC"), Some("P-256")) => &["ES256"],
        (Some("EC"), Some("P-384")) => &["ES384"],
        (Some("EC"), Some("P-521")) => &["ES512"],
        _ => &[],
    }
}

fn check_refused(refusal: Refusal, head: &Parts) {
    let log = refusal.to_string();
    assert!(!log.contains(is_harmful), "{log:?}");
    assert!(log.len() <= LONGEST_LOG, "{} bytes: {log}", log.len());
    for value in head.headers.get_all(AUTHORIZATION) {
        let Some((_, token)) = value.to_str().unwrap_or_default().split_once(' ') else {
            continue;
        };
        let signature = token.rsplit('.').next().unwrap_or_default();
        for secret in [token.trim(), signature.trim()] {
            // Words of the log are not secret.
            let is_secret = secret.len() >= 32 && !secret.contains(' ');
            assert!(!is_secret || !log.contains(secret), "{log}");
        }
    }
    let is_token = matches!(refusal, Refusal::InvalidToken(_));
    assert!(
        !matches!(refusal, Refusal::NoTrust(_)),
        "there are bundles: {log}"
    );
    let answer = rendered(refusal);
    assert_eq!(is_token, answer == *INVALID_TOKEN, "{log}: {answer}");
}

/// Returns whether a character would begin another log line or change how a line is shown.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns all of an answer that a caller sees.
fn rendered(refusal: Refusal) -> String {
    let response = server::answer_refusal(&refusal);
    let mut text = format!("{}\n", response.status());
    for (name, value) in response.headers() {
        text += &format!("{}: {value:?}\n", name.as_str());
    }
    let body = response.into_body().collect().now_or_never();
    let body = body.expect("known at once").expect("known").to_bytes();
    text + std::str::from_utf8(&body).expect("is text")
}
