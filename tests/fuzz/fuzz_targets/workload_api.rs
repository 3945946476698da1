//! See `harness::fuzz`: what an input is, what is asserted, how to run it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::fuzz::workload_api(input));
