//! A whole SPIFFE Workload API for one machine, for development and tests. It needs no server and
//! no node attestation, and makes its keys in memory at the start.
//!
//! A test starts a [`DevAgent`] on its own socket and controls it by method calls. The binary of
//! the same name serves and is controlled from the command line.
//!
//! # Layout
//!
//! - [`DevAgent`] (`agent`): starts, stops, rotates, withdraws.
//! - [`control`]: the same from another process.
//! - [`Config`], [`Entry`], [`Selector`], [`FederatedBundle`]: the settings.
//! - `listen`, `serve`, `requests`, `header`, `service`, `answer`: from the socket file to the answer
//!   of an RPC.
//! - `attest`: the selectors of a caller; `rate`: the limit of its calls.
//! - `authority`, `jwt`, `jwk`, `keyring`, `random`: the keys, and what they sign.
//! - `state`: all of it at one moment; `status`: its public form; `rotate`: its changes with time.
//! - `validate`, `federation`, `json`: tokens and bundles of other issuers, and how they are fetched.
//! - `endpoint`: the own bundle and keys, served by HTTPS.
//! - `backoff`, `throttle`, `lock`: pauses after failures, bounded log lines, and mutexes.
//! - [`pb`]: the messages and stubs of the Workload API, as generated.

mod agent;
mod answer;
mod attest;
mod authority;
mod backoff;
mod config;
pub mod control;
mod endpoint;
mod entry;
mod error;
mod federation;
mod header;
mod json;
mod jwk;
mod jwt;
mod keyring;
mod listen;
mod lock;
mod random;
mod rate;
mod requests;
mod rotate;
mod selector;
mod serve;
mod service;
mod state;
mod status;
mod throttle;
mod validate;

pub use workload_api::pb;

pub use self::{
    agent::DevAgent,
    config::Config,
    endpoint::{BundleEndpoint, EndpointIdentity, EndpointMode, OidcEndpoint, WebCertificate},
    entry::Entry,
    error::Error,
    federation::{FederatedBundle, Partner, PartnerProfile},
    jwt::JwtClaims,
    selector::Selector,
    status::{
        BundleEndpointStatus, CaStatus, EntryStatus, Expiry, JwtKeyStatus, KeyUse,
        OidcEndpointStatus, PartnerState, PartnerStatus, Phase, Status,
    },
};
