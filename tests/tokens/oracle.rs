//! Compares verdicts on generated tokens and bundles with those of the `spiffe` crate.

use std::{collections::BTreeMap, env};

use fastrand::Rng;
use harness::{
    jwt::Draft,
    oracle::{
        Bundles, Choices, EMPTY_KID, ES512, LONG_ID, METADATA, Mint, NBF, NO_KID, ONE_FORM,
        Verdict, compare, documents, judge,
    },
};

use crate::world::WORLD;

/// Tokens of one run; `ORACLE_TOKENS` sets another number.
const TOKENS: u64 = 6000;

/// Tokens that are verified with the same bundles.
const TOKENS_PER_BUNDLE: u64 = 50;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |number| number.parse().unwrap())
}

/// Every difference to the `spiffe` crate has a known reason, and no token is accepted that no key of the
/// bundles signed.
#[test]
fn verdicts_on_generated_tokens_are_those_of_the_library_j211() {
    let mut choices = Choices::Random(Rng::with_seed(number("ORACLE_SEED", 15)));
    let (mut mint, mut verdicts) = (Mint::default(), BTreeMap::new());
    let mut bundles = Bundles::of(&documents(&mut Choices::Bytes(&[])));
    for made in 0..number("ORACLE_TOKENS", TOKENS) {
        if made % TOKENS_PER_BUNDLE == 0 {
            bundles = Bundles::of(&documents(&mut choices));
        }
        let verdict = judge(&mint.token(&mut choices), &mint, &bundles);
        *verdicts.entry(format!("{verdict:?}")).or_insert(0_u64) += 1;
    }
    println!("{verdicts:#?}");
    for expected in [
        Verdict::Accepted,
        Verdict::Refused,
        Verdict::NotAToken,
        different(true, NO_KID),
        different(true, ES512),
    ] {
        let expected = format!("{expected:?}");
        assert!(verdicts.contains_key(&expected), "{expected}: {verdicts:?}");
    }
}

fn different(is_accepted: bool, reason: &'static str) -> Verdict {
    Verdict::Different {
        is_accepted,
        reason,
    }
}

/// A listed difference that is gone should leave the list.
#[test]
fn each_listed_difference_to_the_library_is_one_j211() {
    let w = &*WORLD;
    let mut odd = w.ec1.jwk();
    (odd["kid"], odd["x5t"]) = ("odd".into(), 1.into());
    let bundles = w.both_bundles(&[odd]);
    let subject = |id: &str| w.token(|t| t.claim("sub", &format!("\"{id}\"")));
    let long = format!("spiffe://example.org/{}", "a".repeat(2048));
    for (token, expected) in [
        (w.token(|t| t), Verdict::Accepted),
        (w.token(|t| t.no_head("kid")), different(true, NO_KID)),
        (
            Draft::new("ES512", "ec521").sign(&w.ec521),
            different(true, ES512),
        ),
        (
            w.token(|t| t.claim("nbf", "1.0000000001")),
            different(true, NBF),
        ),
        (
            w.token(|t| t.head("kid", "\"odd\"")),
            different(true, METADATA),
        ),
        (
            w.token(|t| t.head("kid", "\"\"")),
            different(false, EMPTY_KID),
        ),
        (subject(&long), different(false, LONG_ID)),
        (
            subject("SPIFFE://example.org/client"),
            different(false, ONE_FORM),
        ),
        (
            subject("spiffe://EXAMPLE.org/client"),
            different(false, ONE_FORM),
        ),
    ] {
        assert_eq!(compare(&token, &bundles), expected, "{token}");
    }
}
