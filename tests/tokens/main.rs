//! Every line of the conformance list about JWT-SVIDs: which tokens and which headers get in.
//!
//! Most tables run the code that serves requests, [`common::bearer::Authenticator`], on a fixed set of
//! bundles; `carriage` and `live` are real processes and sockets.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// `alg`: what must verify, and what must not.
mod algorithms;
/// What is answered, when, and to which requests, over sockets.
mod answers;
/// `aud`.
mod audience;
/// The `Authorization` header, and who is allowed, over sockets.
mod carriage;
/// Segments, base64url, JSON and signature bytes.
mod encoding;
/// `kid`, `typ` and what has no place in a header.
mod header;
/// What a bundle's keys may be used for.
mod keys;
/// Bundles that change, and a Workload API that is gone.
mod live;
/// `sub`, and the trust domain that it binds a key to.
mod subject;
/// `exp`, `nbf`, `iat`, the leeway and the longest life.
mod times;
/// Messages of the Workload API that can't be used, or only in part.
mod updates;
/// The bundles that the tables share, and what is asserted of each row.
mod world;
