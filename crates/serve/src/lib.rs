//! Listeners: accept, TLS, HTTP and drain.
//!
//! [`serve`] runs on each core, with a listener of its own. [`Shared`] has the [`Limits`] of the process
//! and the counts under them.
//!
//! - `accept` takes connections from the kernel's queue, within bounds, and hands them off between cores
//! - `connection` does the TLS handshake and serves HTTP/1.1 or HTTP/2 until the connection ends
//! - [`tenure`] ends connections with the identity that they were opened under
//! - [`access`] logs requests; [`trace`] has the trace that a request belongs to, and [`spans`] its span
//! - [`counts`] counts connections and requests; [`reason`] has the codes of connections that are not served
//! - [`body`], [`peer`], [`listen`] and [`shutdown`] have the types that a [`Handler`] and its binary use
//! - [`shares`], [`http2`], [`grpc`], [`websocket`], [`tunnel`], [`tcp`] and [`fields`]
//!   are shared with the `forward` crate

mod accept;
pub mod access;
pub mod body;
mod connection;
mod core;
pub mod counts;
pub mod fields;
pub mod grpc;
mod handler;
pub mod http2;
mod in_flight;
mod limits;
pub mod listen;
pub mod peer;
pub mod reason;
mod shared;
pub mod shares;
pub mod shutdown;
pub mod spans;
mod statuses;
mod stream;
pub mod tcp;
pub mod tenure;
pub mod trace;
pub mod tunnel;
mod upgraded;
pub mod websocket;

pub use self::{
    connection::{
        http1::http1,
        last,
        received::{ReceiveError, Received},
    },
    core::serve,
    handler::{Handler, ServiceHandler},
    limits::{
        Limits, MAX_HEADER_BYTES, MAX_HEADERS, MAX_STREAMS, MAX_TARGET_BYTES, MIN_PROGRESS_BYTES,
    },
    shared::{Open, Shared},
    statuses::Statuses,
    stream::PeerAddress,
    upgraded::Upgraded,
};
