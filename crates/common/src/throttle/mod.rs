//! Bounds on log lines that a peer can cause.
//!
//! [`Episode`] logs the start and the end of a repeated event. [`Quota`] limits the records per second
//! and per source. [`RecentRefusals`] keeps the last requests that have such a line.

mod episode;
mod quota;
mod recent;

pub use self::{
    episode::Episode,
    quota::{LogQuotas, Quota},
    recent::{RecentRefusals, RefusedRequest},
};
