//! The cost of authentication.
//!
//! Tokens that are new, seen before and refused are compared with the bare signature check. Further
//! groups show whether the cost grows with keys, callers and patterns.
#![allow(clippy::unwrap_used, reason = "a bench that fails should stop")]

mod token;

use std::{hint::black_box, time::Duration};

use aws_lc_rs::signature::{ParsedPublicKey, UnparsedPublicKey};
use common::bearer::{Allow, Authenticator, JwtBundleSet, Pattern, Policy};
use criterion::{BatchSize, Criterion};
use http::request::Parts;
use serde_json::{Value, json};
use spiffe::SpiffeId;

use self::token::{Key, bundle, encode, head, in_an_hour, parts};

const CLIENT: &str = "spiffe://example.org/ns/shop/sa/client";
const SERVER: &str = "spiffe://example.org/ns/shop/sa/server";
/// The `kid` of the key that signs.
const KID: &str = "authority-0";
const CACHE: usize = 16 * 1024;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let key = Key::es256();
    signatures(&mut criterion, "ES256", &key);
    signatures(&mut criterion, "RS256", &Key::rs256());
    refused(&mut criterion, &key);
    keys(&mut criterion, &key);
    callers(&mut criterion, &key);
    patterns(&mut criterion);
    criterion.final_summary();
}

/// Measures a new token and a known one next to the bare signature check, with a raw and with a parsed
/// key.
fn signatures(criterion: &mut Criterion, name: &str, key: &Key) {
    let token = key.token(KID, &claims(CLIENT));
    let (message, signature) = parts(&token);
    let raw = UnparsedPublicKey::new(key.algorithm, &key.public);
    let parsed = ParsedPublicKey::new(key.algorithm, &key.public).unwrap();
    let head = head(&token);
    let (new, seen) = (authenticator(key, 1, 0), authenticator(key, 1, CACHE));

    let mut group = criterion.benchmark_group(name);
    group.bench_function("raw signature check", |bencher| {
        bencher.iter(|| raw.verify(black_box(message.as_bytes()), &signature));
    });
    group.bench_function("raw signature check, key read before", |bencher| {
        bencher.iter(|| parsed.verify_sig(black_box(message.as_bytes()), &signature));
    });
    for (name, authenticator) in [("new", new), ("seen", seen)] {
        authenticator.authenticate(&head).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| authenticator.authenticate(black_box(&head)));
        });
    }
    group.finish();
}

/// Measures refused tokens next to a new token that is accepted. The policy accepts clock skew, because
/// the checks of times cost more then.
fn refused(criterion: &mut Criterion, key: &Key) {
    let good = key.token(KID, &claims(CLIENT));
    let with = |claim: &str, value: Value| {
        let mut claims = claims(CLIENT);
        claims[claim] = value;
        key.token(KID, &claims)
    };
    let mut policy = policy(0);
    policy.clock_skew = Duration::from_secs(60);
    let authenticator = Authenticator::new(bundles(key, 1), policy);

    let mut group = criterion.benchmark_group("refused");
    for (name, token, status) in [
        ("none: accepted", good.clone(), None),
        (
            "bad signature",
            Key::es256().token(KID, &claims(CLIENT)),
            Some(401),
        ),
        (
            "no kid: accepted",
            key.token_without_kid(&claims(CLIENT)),
            None,
        ),
        (
            "no kid, bad signature",
            Key::es256().token_without_kid(&claims(CLIENT)),
            Some(401),
        ),
        (
            "unknown kid",
            key.token("stranger", &claims(CLIENT)),
            Some(401),
        ),
        (
            "wrong audience",
            with("aud", json!("spiffe://example.org/other")),
            Some(401),
        ),
        ("expired", with("exp", json!(1_000_000_000)), Some(401)),
        ("not valid yet", with("nbf", json!(in_an_hour())), Some(401)),
        (
            "not allowed",
            with("sub", json!("spiffe://example.org/ns/other/sa/client")),
            Some(403),
        ),
        (
            "malformed claims",
            format!("{}.{}.{}", encode("{}"), encode("{"), encode("-")),
            Some(401),
        ),
        ("malformed header", good.replace('.', ","), Some(400)),
    ] {
        let head = head(&token);
        let refusal = authenticator.authenticate(&head).err();
        let answer = refusal.map(|refusal| refusal.status().as_u16());
        assert_eq!(answer, status, "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| authenticator.authenticate(black_box(&head)));
        });
    }
    group.finish();
}

/// Measures a new token, by the number of keys in the bundle.
fn keys(criterion: &mut Criterion, key: &Key) {
    let head = head(&key.token(KID, &claims(CLIENT)));
    let mut group = criterion.benchmark_group("keys in the bundle");
    for keys in [1, 1000] {
        let authenticator = authenticator(key, keys, 0);
        authenticator.authenticate(&head).unwrap();
        group.bench_function(format!("new, of {keys}"), |bencher| {
            bencher.iter(|| authenticator.authenticate(black_box(&head)));
        });
    }
    group.finish();
}

/// Measures tokens of many callers in rotation, by the number of callers. Each token is a new copy, as
/// in a new request, so that only the server's own data can be outside the processor's cache.
fn callers(criterion: &mut Criterion, key: &Key) {
    let mut group = criterion.benchmark_group("callers");
    for callers in [1, 10_000] {
        let head_of = |caller| head(&key.token(KID, &claims(&format!("{CLIENT}-{caller:05}"))));
        let heads: Vec<Parts> = (0..callers).map(head_of).collect();
        let (new, seen) = (authenticator(key, 1, 0), authenticator(key, 1, CACHE));
        for (name, authenticator) in [("new", new), ("seen", seen)] {
            for head in &heads {
                authenticator.authenticate(head).unwrap();
            }
            let mut rotation = heads.iter().cycle();
            group.bench_function(format!("{name}, of {callers}"), |bencher| {
                bencher.iter_batched(
                    || rotation.next().unwrap().clone(),
                    |head| authenticator.authenticate(&head),
                    BatchSize::NumIterations(16),
                );
            });
        }
    }
    group.finish();
}

/// Measures the check of a SPIFFE ID, by the number of patterns.
fn patterns(criterion: &mut Criterion) {
    let id = SpiffeId::new(CLIENT).unwrap();
    let stranger = SpiffeId::new("spiffe://example.org/ns/other/sa/client").unwrap();
    let mut group = criterion.benchmark_group("allow patterns");
    for (kind, pattern) in [
        ("exact", CLIENT),
        ("below", "spiffe://example.org/ns/shop/*"),
    ] {
        for patterns in [1, 1000] {
            let other = |number| pattern.replace("shop", &format!("shop-{number}"));
            let texts = (1..patterns).map(other).chain([pattern.to_owned()]);
            let allow: Allow = texts.map(|text| text.parse::<Pattern>().unwrap()).collect();
            for (name, id, allowed) in [("allowed", &id, true), ("refused", &stranger, false)] {
                assert_eq!(allow.allows(id), allowed);
                group.bench_function(format!("{name}, {kind}, of {patterns}"), |bencher| {
                    bencher.iter(|| allow.allows(black_box(id)));
                });
            }
        }
    }
    group.finish();
}

fn authenticator(key: &Key, keys: usize, cache: usize) -> Authenticator<JwtBundleSet> {
    Authenticator::new(bundles(key, keys), policy(cache))
}

/// Returns a policy that allows callers below one path and remembers `cache` tokens.
fn policy(cache: usize) -> Policy {
    let pattern: Pattern = "spiffe://example.org/ns/shop/*".parse().unwrap();
    let mut policy = Policy::new(vec![SERVER.to_owned()], Allow::from_iter([pattern]));
    policy.token_cache = cache;
    policy
}

/// Returns one bundle that has `key` under `keys` names. [`KID`] is one of them.
fn bundles(key: &Key, keys: usize) -> JwtBundleSet {
    bundle((0..keys).map(|number| (key, format!("authority-{number}"))))
}

fn claims(subject: &str) -> Value {
    let exp = in_an_hour();
    json!({ "sub": subject, "aud": [SERVER], "iat": exp - 3600, "exp": exp })
}
