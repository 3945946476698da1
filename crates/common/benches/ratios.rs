//! The cost of a new token as a ratio to the bare signature check.
//!
//! The rows of a group take turns of a millisecond, so that the noise of the machine meets all of them. A
//! figure is the tenth percentile of the turns, because a busy machine interrupts the slower ones.
//! Criterion (`bearer`) measures one row after the other, and its absolute figures drift with the machine.
#![allow(clippy::unwrap_used, reason = "a bench that fails should stop")]

mod token;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{ParsedPublicKey, UnparsedPublicKey};
use common::bearer::{Allow, Authenticator, JwtBundleSet, Pattern, Policy};
use serde_json::{Value, json};

use self::token::{Key, bundle, head, in_an_hour, parts};

/// Turns of each row.
const TURNS: usize = 1000;

/// The length of a turn, unless one call takes longer.
const TURN: Duration = Duration::from_millis(1);

const SERVER: &str = "spiffe://example.org/ns/shop/sa/server";

/// A row: its name, and the call that it measures.
type Row<'a> = (&'a str, Box<dyn Fn() + 'a>);

fn main() {
    for (name, make) in [("ES256", Key::es256 as fn() -> Key), ("RS256", Key::rs256)] {
        new_tokens(name, make);
        refused(name, make);
        without_kid(name, make);
    }
}

/// Compares a new token with the bare signature check, with a key that is read each time and with one that
/// was read before.
fn new_tokens(name: &str, make: fn() -> Key) {
    let key = make();
    let token = key.token("a", &claims());
    let (message, signature) = parts(&token);
    let raw = UnparsedPublicKey::new(key.algorithm, &key.public);
    let parsed = ParsedPublicKey::new(key.algorithm, &key.public).unwrap();
    let authenticator = authenticator(bundle([(&key, "a".to_owned())]));
    compare(
        name,
        vec![
            (
                "signature check, key read before",
                Box::new(|| {
                    parsed
                        .verify_sig(black_box(message.as_bytes()), &signature)
                        .unwrap()
                }),
            ),
            (
                "signature check",
                Box::new(|| {
                    raw.verify(black_box(message.as_bytes()), &signature)
                        .unwrap()
                }),
            ),
            ("new token", verification(&authenticator, &token, true)),
        ],
    );
}

/// Compares refused tokens with one that is accepted.
fn refused(name: &str, make: fn() -> Key) {
    let key = make();
    let authenticator = authenticator(bundle([(&key, "a".to_owned())]));
    let row = |token: &str, is_accepted| verification(&authenticator, token, is_accepted);
    let with = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        key.token("a", &claims)
    };
    compare(
        &format!("{name}, refused"),
        vec![
            ("none: accepted", row(&key.token("a", &claims()), true)),
            (
                "another key signed it",
                row(&make().token("a", &claims()), false),
            ),
            ("unknown kid", row(&key.token("b", &claims()), false)),
            ("another audience", row(&with("aud", json!("x")), false)),
            ("expired", row(&with("exp", json!(1)), false)),
            (
                "caller not allowed",
                row(&with("sub", json!("spiffe://example.org/x")), false),
            ),
        ],
    );
}

/// Compares tokens that name no key, by the position of the right key among the 8 that are tried.
fn without_kid(name: &str, make: fn() -> Key) {
    let keys: Vec<Key> = (0..8).map(|_| make()).collect();
    let named = keys.iter().enumerate();
    let authenticator = authenticator(bundle(named.map(|(at, key)| (key, format!("{at}")))));
    let row = |key: &Key, is_accepted| {
        verification(
            &authenticator,
            &key.token_without_kid(&claims()),
            is_accepted,
        )
    };
    compare(
        &format!("{name} without kid, 8 keys"),
        vec![
            ("accepted by the last key", row(&keys[7], true)),
            ("accepted by the first key", row(&keys[0], true)),
            ("refused: another key signed it", row(&make(), false)),
        ],
    );
}

/// Returns a call that verifies a token and checks whether it `is_accepted`.
fn verification<'a>(
    authenticator: &'a Authenticator<JwtBundleSet>,
    token: &str,
    is_accepted: bool,
) -> Box<dyn Fn() + 'a> {
    let head = head(token);
    Box::new(move || {
        let result = authenticator.authenticate(black_box(&head));
        assert_eq!(result.is_ok(), is_accepted);
    })
}

/// Measures the rows in turns, and prints each with its ratio to the first.
fn compare(name: &str, rows: Vec<Row<'_>>) {
    let calls: Vec<u32> = rows.iter().map(|(_, call)| calls_of_a_turn(call)).collect();
    let mut times = vec![Vec::with_capacity(TURNS); rows.len()];
    for _ in 0..TURNS {
        for (at, (_, call)) in rows.iter().enumerate() {
            times[at].push(time(call, calls[at]));
        }
    }
    println!("{name}");
    let figures: Vec<f64> = times.iter_mut().map(|times| undisturbed(times)).collect();
    for ((row, _), figure) in rows.iter().zip(&figures) {
        let (micros, ratio) = (figure * 1e6, figure / figures[0]);
        println!("  {row:34} {micros:8.2} µs {ratio:6.3} ×");
    }
}

fn calls_of_a_turn(call: &dyn Fn()) -> u32 {
    let calls = TURN.as_secs_f64() / time(call, 20);
    (calls as u32).max(1)
}

/// Returns the seconds that one call takes, as the mean of `calls`.
fn time(call: &dyn Fn(), calls: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}

fn undisturbed(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

fn authenticator(bundles: JwtBundleSet) -> Authenticator<JwtBundleSet> {
    let pattern: Pattern = "spiffe://example.org/ns/shop/*".parse().unwrap();
    let mut policy = Policy::new(vec![SERVER.to_owned()], Allow::from_iter([pattern]));
    policy.token_cache = 0;
    Authenticator::new(bundles, policy)
}

fn claims() -> Value {
    let exp = in_an_hour();
    let subject = "spiffe://example.org/ns/shop/sa/client";
    json!({ "sub": subject, "aud": [SERVER], "iat": exp - 3600, "exp": exp })
}
