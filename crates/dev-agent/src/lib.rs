//! A whole SPIFFE Workload API for one machine, for development and tests: no
//! server, no node attestation, keys made in memory at start.
//!
//! A test starts a [`DevAgent`] on a socket of its own and moves it by calls; the
//! binary of the same name does the same from the command line.
//!
//! # Layout
//!
//! - [`DevAgent`] (`agent`): starts, stops, rotates, withdraws.
//! - [`control`]: the same from another process.
//! - [`Config`], [`Entry`], [`Selector`], [`FederatedBundle`]: what it is told.
//! - `listen`, `serve`, `header`, `service`, `answer`: from the socket file to
//!   the answer of an RPC.
//! - `attest`: who a caller is; `rate`: how often it may call.
//! - `authority`, `jwt`, `keyring`: the keys, and what they sign.
//! - `state`: all of it at one moment, and `rotate`: how it changes with time.
//! - `validate`, `federation`, `json`: tokens and bundles that others made.

mod agent;
mod answer;
mod attest;
mod authority;
mod config;
pub mod control;
mod entry;
mod error;
mod federation;
mod header;
mod json;
mod jwt;
mod keyring;
mod listen;
mod lock;
mod rate;
mod rotate;
mod selector;
mod serve;
mod service;
mod state;
mod validate;

pub use agent::DevAgent;
pub use config::Config;
pub use entry::Entry;
pub use error::Error;
pub use federation::FederatedBundle;
pub use jwt::JwtClaims;
pub use selector::Selector;
pub use state::status::{CaStatus, EntryStatus, Expiry, JwtKeyStatus, KeyUse, Phase, Status};

/// The Workload API's messages and stubs, generated from `proto/workload.proto`.
#[expect(missing_docs, unused_qualifications, reason = "generated code")]
pub mod pb {
    tonic::include_proto!("_");
}
