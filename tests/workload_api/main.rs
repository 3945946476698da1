//! Tests the use of the Workload API by `common::workload` and by the binaries. They run with a
//! dev-agent, and with a fake whose answers a test chooses. Numbers are those of the conformance
//! list, part 3L.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Fetches a token once, and tests the checks before it is used.
mod fetch;
/// Presents keys that do not fit their certificates.
mod keys;
/// Tests further rules, which public catalogues of the standard name.
mod rules;
/// Tests the sources of the address, and what a start makes of the first answers.
mod startup;
/// Takes a running process through rotation, withdrawal and its end.
mod streams;
/// Sends a running process X.509-SVIDs that cannot be used.
mod svids;
/// Keeps a token current, through all that an agent does.
mod tokens;

use common::workload::Identity;

/// Returns the certificate of the X.509-SVID in use.
fn leaf(identity: &Identity) -> Vec<u8> {
    identity.x509.svid().unwrap().leaf().as_bytes().to_vec()
}
