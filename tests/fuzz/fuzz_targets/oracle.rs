//! Runs one input. `harness::fuzz` says what an input is, what is asserted, and how to run this.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::fuzz::oracle(input));
