//! Forwards requests to an upstream that is verified, or is on this machine.
//!
//! A request is checked and cleaned, and goes over an upstream connection. Its answer is checked and
//! cleaned too. The crate knows nothing about flags, or about the binary it is in.
//!
//! - [`Checked`]: a request that passed all checks · [`Forwarder`]: sends it and returns the answer ·
//!   [`LoggedForwarder`], [`log_failure`], [`reject`]: also answer and log failures · [`FieldPolicy`]: a
//!   deployment's policy for the fields that cross
//! - `target`: method, target and `Host` · `framing`: where messages end
//! - `headers`: the fields that cross, and the hop-by-hop fields that are removed · `trailers`: the same for
//!   trailers · `crossing`: the rules that both share · `via`: the hops of a message, and requests in a loop
//! - `websocket`: the opening of a WebSocket
//! - [`outbound`]: the client, and its pool of upstream connections
//! - [`Rejection`]: the reason why a request is not forwarded · [`Error`]: the reason why the
//!   upstream gave no valid answer

mod body;
mod check;
mod crossing;
mod error;
mod forwarder;
mod framing;
mod headers;
mod logged;
pub mod outbound;
#[cfg(test)]
mod properties;
mod rejection;
mod target;
mod trailers;
mod via;
mod websocket;

pub use self::{
    body::CleanBody,
    check::Checked,
    error::Error,
    forwarder::Forwarder,
    headers::FieldPolicy,
    logged::{LoggedForwarder, log_failure, reject},
    rejection::{Rejected, Rejection},
};
