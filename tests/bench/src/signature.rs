//! Measures one signature verification, which is the least cost of a new token.

use std::{hint::black_box, time::Instant};

use anyhow::{Result, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};

use crate::figure::median;

const CHECKS: u32 = 500;
const ROUNDS: usize = 5;

/// Returns the time in µs to verify a P-256 signature of a message as long as a token, as the
/// median of some rounds.
pub(crate) fn check_micros() -> Result<f64> {
    let message = [b'a'; 300];
    let failed = |_| anyhow!("a P-256 signature could not be made or checked");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
    let signature = pair.sign(&SystemRandom::new(), &message).map_err(failed)?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key());
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..CHECKS {
            key.verify(black_box(&message), signature.as_ref())
                .map_err(failed)?;
        }
        rounds.push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS));
    }
    Ok(median(&rounds).unwrap_or_default())
}
