//! SPIFFE identity for a Rust service: X.509-SVIDs to present, JWT-SVIDs to verify.
//!
//! A service behind a load balancer that terminates TLS can't see its caller's certificate. Its callers
//! send a JWT-SVID as a bearer token instead. [`JwtSvidLayer`](bearer::JwtSvidLayer) puts the check of
//! that token around any tower service; the handlers below it find the verified
//! [`Caller`](bearer::Caller) in the request's extensions.
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
//! // The Workload API gives an X.509-SVID to present and keeps the JWT bundles current.
//! let workload_api = WorkloadApi::new("unix:///tmp/agent.sock".parse()?, Duration::from_secs(30));
//! let identity = workload_api.identity().await?;
//! let own = identity.x509.svid()?.spiffe_id().clone();
//!
//! // Tokens must be for this service, and their subjects members of its trust domain.
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
//! [`tls::server`] makes the rustls configuration that presents the X.509-SVID, for `tokio-rustls` or
//! `axum-server`. The `server` binary of this workspace uses the same entry.
//!
//! # Modules
//!
//! - [`workload`]: the SPIFFE Workload API: its address, the sources, and their faults
//! - [`tls`]: the X.509 source as rustls configurations
//! - [`bearer`]: a request's head → the verified caller, and the layer over it
//! - [`sanitize`], [`cause`], [`throttle`]: text that is safe to log, and bounded log lines
//! - [`fair`], [`source`], [`backoff`], [`lock`]: a queue that serves sources in turn, growing pauses,
//!   and mutexes

pub mod backoff;
pub mod bearer;
pub mod cause;
pub mod fair;
pub mod lock;
pub mod sanitize;
pub mod source;
pub mod throttle;
pub mod tls;
pub mod workload;
