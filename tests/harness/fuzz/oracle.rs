//! Fuzzes the comparison of our verdicts with those of the `spiffe` crate, by bundles too.

use crate::oracle::{Bundles, Choices, Mint, documents, judge};

/// The most tokens of one input.
const MAX_TOKENS: usize = 4;

/// Takes an input whose bytes are the choices by which bundles and tokens are generated. An empty one has
/// valid bundles and a valid token.
///
/// # Panics
/// Panics if the verdicts on a token differ for a reason that is not listed, or if a token is accepted that
/// no key of the bundles has signed.
pub fn oracle(input: &[u8]) {
    let mut choices = Choices::Bytes(input);
    let bundles = Bundles::of(&documents(&mut choices));
    let mut mint = Mint::default();
    for _ in 0..=choices.below(MAX_TOKENS) {
        judge(&mint.token(&mut choices), &mint, &bundles);
    }
}
