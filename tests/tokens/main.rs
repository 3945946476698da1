//! Tests every line of the conformance list about JWT-SVIDs: which tokens and which headers are
//! accepted.
//!
//! Most tables run the code that serves requests, [`common::bearer::Authenticator`], on fixed
//! bundles. `carriage` and `live` use real processes and sockets.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Tests `alg`: the algorithms that are accepted and those that are refused.
mod algorithms;
/// Tests the bytes and the time of answers, over sockets.
mod answers;
/// Tests `aud`.
mod audience;
/// Tests the `Authorization` header and the allow list, over sockets.
mod carriage;
/// Tests segments, base64url, JSON and signature bytes.
mod encoding;
/// Starts a server, and checks its answers over sockets.
mod fixture;
/// Tests `kid`, `typ` and members that a header must not have.
mod header;
/// Tests the permitted uses of a bundle's keys.
mod keys;
/// Changes bundles, and stops the Workload API.
mod live;
/// Compares verdicts on generated tokens with those of the `spiffe` crate.
mod oracle;
/// Tests further rules, which public catalogues of the standard name.
mod rules;
/// Tests `sub`, and the trust domain to which it binds a key.
mod subject;
/// Tests `exp`, `nbf`, `iat`, the clock skew and the longest lifetime.
mod times;
/// Sends messages of the Workload API that cannot be used, or only in part.
mod updates;
/// Holds the bundles that the tables share, and checks each row.
mod world;
