//! Accept → TLS → HTTP → drain: the part that is the same for everything that listens.
//!
//! One [`serve`] runs on each core, on a listener of its own. [`Shared`] holds the counts that are for
//! the whole process, under its [`Limits`].
//!
//! - `accept`: connections out of the kernel's queue, handed to a core, within bounds
//! - `connection`: TLS, then HTTP/1.1 or HTTP/2 until the connection ends
//! - [`body`], [`peer`], [`listen`], [`shutdown`]: the types that a [`Handler`] and its binary see
//! - [`shares`], [`http2`], [`fields`]: shared with the `forward` crate

mod accept;
pub mod body;
mod connection;
mod core;
pub mod fields;
mod handler;
pub mod http2;
mod in_flight;
mod limits;
pub mod listen;
pub mod peer;
mod shared;
pub mod shares;
pub mod shutdown;

pub use self::{
    connection::{ReceiveError, Received, http1, last},
    core::serve,
    handler::{Handler, ServiceHandler},
    limits::{
        Limits, MAX_HEADER_BYTES, MAX_HEADERS, MAX_STREAMS, MAX_TARGET_BYTES, MIN_PROGRESS_BYTES,
    },
    shared::Shared,
};
