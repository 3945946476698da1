//! HTTP/2 streams, on either side of a connection.
//!
//! The `h2` crate is used directly instead of through hyper, for these reasons. hyper:
//!
//! - accepts `RST_STREAM(NO_ERROR)` as the end of a body
//! - buffers an answer that its peer has no window for, and no longer tracks it
//! - sends no `100 (Continue)`
//! - does not tell how many streams a peer accepts
//!
//! This costs nothing: with 8 requests at once over HTTP/2, `forward`'s pool takes 26,905 instructions for one, and
//! hyper without a pool 27,238 (`crates/forward/src/outbound/pool.rs` has the measurement).
//!
//! `inflow` receives a body, `outflow` sends one, and `alive` checks whether a quiet peer still answers.

mod alive;
mod inflow;
mod outflow;

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, TRANSFER_ENCODING, UPGRADE},
};

pub use self::{
    alive::{Heard, Listening, MAX_COPIED, RoundTrip, dead, measure},
    inflow::Inflow,
    outflow::{SendError, send_body},
};
use crate::fields;

/// The fields that HTTP/2 does not permit (RFC 9113 §8.2.2).
static CONNECTION_FIELDS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes the fields that HTTP/2 does not permit.
pub fn remove_connection_fields(headers: &mut HeaderMap) {
    fields::remove(headers, |name| CONNECTION_FIELDS.contains(name));
}
