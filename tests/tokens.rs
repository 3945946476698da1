//! Every line of the conformance list about JWT-SVIDs: which tokens and which headers get in.
//!
//! Most tables run the code that serves requests, [`common::bearer::Authenticator`], on a fixed set of
//! bundles; `carriage` and `live` are real processes and sockets.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// `alg`: what must verify, and what must not.
#[path = "tokens/algorithms.rs"]
mod algorithms;
/// What is answered, when, and to which requests, over sockets.
#[path = "tokens/answers.rs"]
mod answers;
/// `aud`.
#[path = "tokens/audience.rs"]
mod audience;
/// The `Authorization` header, and who is allowed, over sockets.
#[path = "tokens/carriage.rs"]
mod carriage;
/// Segments, base64url, JSON and signature bytes.
#[path = "tokens/encoding.rs"]
mod encoding;
/// A Workload API that says what a test tells it to say.
#[allow(
    dead_code,
    reason = "shared with another test binary, which uses the rest"
)]
#[path = "workload_api/fake.rs"]
mod fake;
/// `kid`, `typ` and what has no place in a header.
#[path = "tokens/header.rs"]
mod header;
/// What a bundle's keys may be used for.
#[path = "tokens/keys.rs"]
mod keys;
/// Bundles that change, and a Workload API that is gone.
#[path = "tokens/live.rs"]
mod live;
/// `sub`, and the trust domain that it binds a key to.
#[path = "tokens/subject.rs"]
mod subject;
/// `exp`, `nbf`, `iat`, the leeway and the longest life.
#[path = "tokens/times.rs"]
mod times;
/// Messages of the Workload API that can't be used, or only in part.
#[path = "tokens/updates.rs"]
mod updates;
/// The bundles that the tables share, and what is asserted of each row.
#[path = "tokens/world.rs"]
mod world;
