//! Provides the choices by which tokens and bundles are generated.

use fastrand::Rng;

/// A source of numbers: random ones, or the bytes of a fuzz target's input.
pub enum Choices<'a> {
    /// Random numbers.
    Random(Rng),
    /// One number of each byte, and zeros after the last.
    Bytes(&'a [u8]),
}

impl Choices<'_> {
    /// Returns a number below `limit`, which is at least 1. A zero stands for the usual choice, so that an
    /// empty input changes nothing.
    pub fn below(&mut self, limit: usize) -> usize {
        match self {
            Self::Random(rng) => rng.usize(..limit),
            Self::Bytes(bytes) if limit > 256 => {
                let (high, low) = (byte(bytes), byte(bytes));
                (high * 256 + low) % limit
            }
            Self::Bytes(bytes) => byte(bytes) % limit,
        }
    }

    /// Returns true once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 1
    }

    /// Returns one of `values`.
    pub fn of<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }
}

fn byte(bytes: &mut &[u8]) -> usize {
    let Some((first, rest)) = bytes.split_first() else {
        return 0;
    };
    *bytes = rest;
    usize::from(*first)
}
