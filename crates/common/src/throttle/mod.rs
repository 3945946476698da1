//! Bounds on log lines that a peer can cause.
//!
//! [`Episode`] logs the start and the end of a repeated event. [`LogQuota`] limits the lines per second
//! and per source.

mod episode;
mod quota;

pub use self::{
    episode::Episode,
    quota::{LogQuota, LogQuotas},
};
