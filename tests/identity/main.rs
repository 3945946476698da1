//! Changes identities under running processes: rotation, withdrawal, outages.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Warns of trust domains without a bundle.
mod bundles;
/// Drains upstream connections when the trust that verified them ends.
mod drained;
/// Checks what a process reports of an identity that is lost, late or withdrawn.
mod readiness;
/// Rotates SVIDs, CAs and JWT keys.
mod rotation;
/// Runs the processes as different Unix users, which needs root.
mod users;
