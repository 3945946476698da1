//! Runs the inputs of the fuzz targets in `tests/fuzz`. The unit tests (`seeds`) run each of their
//! seeds. An input is any bytes. The result is compared with that of a second implementation, which
//! shares no code with the first. All is in memory, on one thread, and a panic is a finding.
//!
//! cargo-fuzz (`cargo install cargo-fuzz --locked`) runs them from the root of the project, on stable
//! Rust. `bearer` stands for any of [`TARGETS`]:
//!
//! ```sh
//! mkdir -p tests/fuzz/corpus/bearer
//! cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none bearer \
//!     tests/fuzz/corpus/bearer tests/fuzz/seeds/bearer -- -max_total_time=600 -max_len=4096 -timeout=10
//! ```
//!
//! There is no sanitizer because our code has no `unsafe`. New inputs go to `tests/fuzz/corpus`.
//! After a fix, the file of a finding moves from `tests/fuzz/artifacts` to the seeds, under a name
//! that describes it.

mod bearer;
mod bodies;
mod cleaning;
mod crossing;
mod oracle;
mod script;
#[cfg(test)]
mod seeds;
mod upstream;
mod wire;
mod workload_api;

pub use self::{bearer::bearer, cleaning::cleaning, oracle::oracle, workload_api::workload_api};

/// The function that runs one input.
pub type Run = fn(&[u8]);

/// The name and the function of every target.
pub const TARGETS: [(&str, Run); 4] = [
    ("bearer", bearer),
    ("cleaning", cleaning),
    ("oracle", oracle),
    ("workload_api", workload_api),
];

/// Splits `input` at the first `separator`, which neither part includes.
fn cut<'a>(input: &'a [u8], separator: &[u8]) -> (&'a [u8], &'a [u8]) {
    let mut windows = input.windows(separator.len());
    match windows.position(|window| window == separator) {
        Some(at) => (&input[..at], &input[at + separator.len()..]),
        None => (input, &[]),
    }
}

/// Returns whether `text` contains `needle`.
fn holds(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

/// Replaces `NOW`, `NOW+5` and `NOW-5` by numbers.
fn at(mut claims: &[u8], now: i64) -> Vec<u8> {
    let mut told = Vec::new();
    while holds(claims, b"NOW") {
        let (before, after) = cut(claims, b"NOW");
        let digits = |text: &[u8]| {
            text.iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count()
                .min(9)
        };
        let (sign, length) = match after {
            [b'+', number @ ..] => (1, digits(number)),
            [b'-', number @ ..] => (-1, digits(number)),
            _ => (0, 0),
        };
        let number = after.get(1..=length).map(String::from_utf8_lossy);
        let offset: i64 = number
            .and_then(|number| number.parse().ok())
            .unwrap_or_default();
        told.extend_from_slice(before);
        told.extend_from_slice((now + sign * offset).to_string().as_bytes());
        claims = &after[if length > 0 { length + 1 } else { 0 }..];
    }
    [&told, claims].concat()
}
