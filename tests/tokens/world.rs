use std::sync::LazyLock;

use common::bearer::{Allow, Authenticator, JwtBundle, JwtBundleSet, Policy, Refusal};
use futures_util::FutureExt;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use spiffe::{SpiffeId, TrustDomain};

use harness::{
    CLIENT_ID, SERVER_ID,
    jwt::{Draft, Key, encode},
    oracle::Bundles,
};

/// The answer to every invalid token, independent of the fault.
pub(crate) const INVALID_TOKEN: &str = r#"401 Unauthorized
"content-type": "text/plain; charset=utf-8"
"cache-control": "no-store"
"www-authenticate": "Bearer realm=\"spiffe\", error=\"invalid_token\""
401 Unauthorized
"#;

/// The fixture of the list: `example.org` with these keys, federated with `partner.example`.
pub(crate) static WORLD: LazyLock<World> = LazyLock::new(World::new);

pub(crate) struct World {
    pub(crate) ec1: Key,
    pub(crate) ec384: Key,
    pub(crate) ec521: Key,
    pub(crate) rsa1: Key,
    pub(crate) ed1: Key,
    pub(crate) oct1: Key,
    pub(crate) dup: [Key; 2],
    /// A key in no bundle.
    pub(crate) stranger: Key,
    pub(crate) p1: Key,
    /// A key with the name of one of ours.
    pub(crate) partner_ec1: Key,
    /// Tokens that another implementation signed; see vectors.py.
    pub(crate) vectors: Value,
}

/// A number of the list, a description, the token, and the required outcome.
pub(crate) type Row<'a> = (&'a str, &'a str, String, Expected<'a>);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected<'a> {
    Accepted,
    /// The token is accepted as this caller.
    As(&'a str),
    /// The answer is 401, and the log has this text.
    Refused(&'a str),
    /// The answer is 400.
    Malformed,
    /// The answer is 403.
    NotAllowed,
    /// The answer is 431.
    TooLong,
}

impl World {
    fn new() -> Self {
        Self {
            ec1: Key::p256("ec1"),
            ec384: Key::p384("ec384"),
            ec521: Key::p521("ec521"),
            rsa1: Key::rsa("rsa1"),
            ed1: Key::ed25519("ed1"),
            oct1: Key::hmac("oct1", b"a secret that is in the bundle all the same"),
            dup: [Key::p256("dup"), Key::p256("dup")],
            stranger: Key::p256("ec1"),
            p1: Key::p256("p1"),
            partner_ec1: Key::p256("ec1"),
            vectors: serde_json::from_str(include_str!("vectors.json")).unwrap(),
        }
    }

    /// Drafts a valid token for `ec1`.
    pub(crate) fn draft(&self) -> Draft {
        Draft::new("ES256", self.ec1.kid())
    }

    /// Returns a valid token with `change` applied, signed by `ec1`.
    pub(crate) fn token(&self, change: impl FnOnce(Draft) -> Draft) -> String {
        change(self.draft()).sign(&self.ec1)
    }

    /// Returns the token that another implementation signed for `kid`.
    pub(crate) fn vector(&self, kid: &str) -> String {
        self.vectors[kid]["token"].as_str().unwrap().to_owned()
    }

    /// Returns bundles with all keys and with `keys`.
    pub(crate) fn bundles(&self, keys: &[Value]) -> JwtBundleSet {
        self.both_bundles(keys).ours
    }

    /// Returns the same bundles in the form of each implementation.
    pub(crate) fn both_bundles(&self, keys: &[Value]) -> Bundles {
        let named = |key: &Key, kid: &str, member: &str, value: Value| {
            let mut jwk = key.jwk();
            jwk["kid"] = kid.into();
            jwk[member] = value;
            jwk
        };
        let mut ours: Vec<Value> = [
            &self.ec1,
            &self.ec384,
            &self.ec521,
            &self.rsa1,
            &self.ed1,
            &self.oct1,
            &self.dup[0],
            &self.dup[1],
        ]
        .map(Key::jwk)
        .to_vec();
        ours.extend([
            named(&self.rsa1, "rs256only", "alg", "RS256".into()),
            named(&self.ec1, "", "use", "sig".into()),
            named(&self.ec1, "use-sig", "use", "sig".into()),
            named(&self.ec1, "use-jwt-svid", "use", "jwt-svid".into()),
            named(&self.ec1, "use-enc", "use", "enc".into()),
            named(&self.ec1, "use-x509-svid", "use", "x509-svid".into()),
            named(&self.ec1, "ops-sign", "key_ops", json!(["sign"])),
            named(&self.ec1, "ops-verify", "key_ops", json!(["verify"])),
            named(
                &self.rsa1,
                "leading-zero",
                "n",
                encode([&[0], self.rsa1.modulus()].concat()).into(),
            ),
            json!({ "kty": "AKP", "kid": "unknown-kty", "pub": "AA" }),
            json!({ "kty": "EC", "crv": "P-257", "kid": "unknown-crv", "x": "AA", "y": "AA" }),
        ]);
        let vectors = self.vectors.as_object().unwrap();
        ours.extend(vectors.values().map(|vector| vector["jwk"].clone()));
        ours.extend_from_slice(keys);
        let partners = [self.p1.jwk(), self.partner_ec1.jwk()];
        Bundles::of(&[
            ("example.org", json!({ "keys": ours })),
            ("partner.example", json!({ "keys": partners })),
        ])
    }

    /// Returns an authenticator that allows every caller of both trust domains.
    pub(crate) fn authenticator(&self) -> Authenticator<JwtBundleSet> {
        Authenticator::new(self.bundles(&[]), policy())
    }

    /// Checks every row with [`Self::authenticator`].
    pub(crate) fn check(&self, rows: &[Row<'_>]) {
        check(&self.authenticator(), rows);
    }
}

pub(crate) fn policy() -> Policy {
    let patterns = ["spiffe://example.org/*", "spiffe://partner.example/*"];
    let allow: Allow = patterns.iter().map(|text| text.parse().unwrap()).collect();
    Policy {
        token_cache: 100,
        ..Policy::new(vec![SERVER_ID.to_owned()], allow)
    }
}

pub(crate) fn bundle(trust_domain: &str, jwks: &Value) -> (TrustDomain, JwtBundle) {
    let trust_domain = TrustDomain::new(trust_domain).unwrap();
    (
        trust_domain,
        JwtBundle::parse(jwks.to_string().as_bytes()).unwrap(),
    )
}

/// Checks the caller of each row, or the answer and the log line.
pub(crate) fn check(authenticator: &Authenticator<JwtBundleSet>, rows: &[Row<'_>]) {
    for (number, what, token, expected) in rows {
        let name = format!("{number} {what}");
        let outcome = authenticate(authenticator, token);
        match (expected, outcome) {
            (Expected::Accepted, Ok(id)) => assert_eq!(id.to_string(), CLIENT_ID, "{name}"),
            (Expected::As(caller), Ok(id)) => assert_eq!(id.to_string(), *caller, "{name}"),
            (Expected::Refused(log), Err(refusal)) => {
                let found = refusal.to_string();
                assert!(
                    found.starts_with("Invalid token: jwtsvid: "),
                    "{name}: {found}"
                );
                assert!(found.contains(log), "{name}: {found}");
                assert!(
                    found.len() < 1024 && !found.contains(char::is_control),
                    "{name}: {found}"
                );
                assert_eq!(rendered(refusal), INVALID_TOKEN, "{name}");
            }
            (Expected::Malformed, Err(refusal)) => assert_eq!(refusal.status(), 400, "{name}"),
            (Expected::NotAllowed, Err(refusal)) => assert_eq!(refusal.status(), 403, "{name}"),
            (Expected::TooLong, Err(refusal)) => assert_eq!(refusal.status(), 431, "{name}"),
            (expected, outcome) => panic!("{name}: expected {expected:?}, got {outcome:?}"),
        }
    }
}

pub(crate) fn authenticate(
    authenticator: &Authenticator<JwtBundleSet>,
    token: &str,
) -> Result<SpiffeId, Refusal> {
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    let (head, ()) = request.body(()).unwrap().into_parts();
    let first = authenticator.authenticate(&head);
    // The answer is the same whether the token is cached or not.
    let second = authenticator.authenticate(&head);
    assert_eq!(first.as_ref().ok(), second.as_ref().ok(), "{token}");
    first.map(|caller| SpiffeId::clone(&caller.unwrap().id))
}

/// Returns all of an answer that a caller sees, except the date.
pub(crate) fn rendered(refusal: Refusal) -> String {
    let response = server::answer_refusal(&refusal);
    let mut text = format!("{}\n", response.status());
    for (name, value) in response.headers() {
        text += &format!("{:?}: {value:?}\n", name.as_str());
    }
    let body = response.into_body().collect().now_or_never();
    let body = body.expect("known at once").unwrap().to_bytes();
    text + std::str::from_utf8(&body).unwrap()
}
