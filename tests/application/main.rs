//! Tests applications behind the server and in front of the client.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Calls a listening client, as applications do.
mod caller;
/// Answers the checks of a gateway.
mod ext_authz;
/// Forwards to an application that is absent, slow, or not an HTTP server.
mod faults;
/// Forwards to an application, with the caller's SPIFFE ID.
mod forwarded;
/// Ends streams with the token that began them, or lets them continue.
mod lifetime;
/// Listens for applications and adds tokens to their requests.
mod listening;
/// Decides by a policy file which requests reach an application.
mod policy;
/// Sends trace context through all roles.
mod trace;
