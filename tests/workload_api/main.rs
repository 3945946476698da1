//! The Workload API as our binaries use it: `common::workload` and the binaries themselves over a
//! dev-agent, and over a fake that says what it is told to say. Numbers are those of the
//! conformance list, part 3L.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// A token that is fetched once: what is checked before it is sent.
mod fetch;
/// Keys that are not their certificates'.
mod keys;
/// Where the address comes from, and what start-up makes of the first answers.
mod startup;
/// A running process through rotation, bad messages, withdrawal and the end.
mod streams;
/// A token that is kept current, through all that an agent does.
mod tokens;
