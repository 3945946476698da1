//! Changes identities under running processes: rotation, withdrawal, outages.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Warns of trust domains without a bundle.
mod bundles;
/// Chooses one identity of many.
mod chosen;
/// Drains upstream connections when the trust that verified them ends.
mod drained;
/// Changes bundles that cannot be used, and responses with very many.
mod faults;
/// Checks what a process reports of an identity that is lost, late or withdrawn.
mod readiness;
/// Checks that each change of state is one line of the log.
mod reported;
/// Rotates SVIDs, CAs and JWT keys.
mod rotation;
/// Runs the processes as different Unix users, which needs root.
mod users;
