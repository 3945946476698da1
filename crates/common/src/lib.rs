//! SPIFFE identity for Rust services: X.509-SVIDs to present, JWT-SVIDs to verify.
//!
//! A service behind a load balancer that terminates TLS cannot see its caller's certificate. Its
//! callers send a JWT-SVID as a bearer token instead. [`JwtSvidLayer`](bearer::JwtSvidLayer) is tower
//! middleware that verifies this token. Handlers below it find the verified
//! [`Caller`](bearer::Caller) in the request's extensions. A policy that needs more than the SPIFFE ID reads
//! the token's claims with [`Caller::claims`](bearer::Caller::claims).
//!
//! # Depend on it
//!
//! The crate is not on crates.io. A service depends on it through Git:
//!
//! ```toml
//! [dependencies]
//! common = { git = "<the address of this repository>" }
//! ```
//!
//! # Example: verified callers in an axum service
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//!
//! use axum::{Extension, Router, routing::get};
//! use common::{
//!     bearer::{Allow, Authenticator, Caller, JwtSvidLayer, Policy},
//!     workload::WorkloadApi,
//! };
//!
//! async fn hello(Extension(caller): Extension<Caller>) -> String {
//!     format!("Hello, {}\n", caller.id)
//! }
//!
//! # async fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! // The Workload API issues an X.509-SVID and keeps the JWT bundles current.
//! let workload_api = WorkloadApi::new("unix:///tmp/agent.sock".parse()?, Duration::from_secs(30));
//! let identity = workload_api.identity().await?;
//! let own = identity.x509.svid()?.spiffe_id().clone();
//!
//! // A token must be for this service, and its subject a member of the service's trust domain.
//! let policy = Policy::new(
//!     vec![own.to_string()],
//!     Allow::members_of(own.trust_domain().clone()),
//! );
//! let authenticator = Arc::new(Authenticator::new(identity.jwt, policy));
//!
//! let app = Router::new()
//!     .route("/", get(hello))
//!     .layer(JwtSvidLayer::new(authenticator));
//! # Ok(app)
//! # }
//! ```
//!
//! [`tls::server`] returns the rustls configuration that presents the X.509-SVID, for `tokio-rustls`
//! or `axum-server`. The `server` binary of this workspace is built on the same items.
//!
//! # Modules
//!
//! - [`workload`] connects to the SPIFFE Workload API and keeps SVIDs, bundles and tokens current
//! - [`tls`] turns an X.509 source into rustls configurations
//! - [`bearer`] verifies a request's caller, and has the layer that does so for a service
//! - [`path`] has patterns over the paths of requests
//! - [`certificate`] reads a certificate
//! - [`count`] has counters that cost next to nothing
//! - [`reason`] has the codes of refusals, which log lines, metrics and documents share
//! - [`sanitize`] and [`cause`] make log lines safe and complete
//! - [`source`] has the network of a caller's address
//!
//! Five more modules (`backoff`, `fair`, `label`, `lock` and `throttle`) are parts that only the crates of this
//! workspace share. The documentation leaves them out, and they may change at any time.

#[doc(hidden)]
pub mod backoff;
pub mod bearer;
pub mod cause;
pub mod certificate;
pub mod count;
#[doc(hidden)]
pub mod fair;
mod jwt_bundle;
#[doc(hidden)]
pub mod label;
#[doc(hidden)]
pub mod lock;
pub mod path;
pub mod reason;
pub mod sanitize;
pub mod source;
#[doc(hidden)]
pub mod throttle;
pub mod tls;
pub mod workload;
