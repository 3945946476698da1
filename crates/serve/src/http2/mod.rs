//! HTTP/2 streams, on either side of a connection.
//!
//! The `h2` crate is used directly, and not by way of hyper, because hyper's glue decides what has
//! to be decided here: it takes `RST_STREAM(NO_ERROR)` for the end of a body, buffers an answer that
//! its peer has no window for and forgets it, knows no `100 (Continue)`, and hides how many streams
//! a peer takes.
//!
//! - `inflow`: a body as it comes · `outflow`: a body on its way out
//! - `alive`: whether a quiet peer is still there

mod alive;
mod inflow;
mod outflow;

pub use self::{
    alive::{Heard, Listening, RoundTrip, dead, measure},
    inflow::Inflow,
    outflow::{SendError, send_body},
};

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, TRANSFER_ENCODING, UPGRADE},
};

/// Removes the fields that HTTP/2 has no use for (RFC 9113 §8.2.2).
pub fn remove_connection_fields(headers: &mut HeaderMap) {
    const OTHERS: [HeaderName; 4] = [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in OTHERS {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}
