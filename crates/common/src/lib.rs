//! What two or more of the binaries need. Identity flows one way: Workload API → sources → TLS
//! configurations and bearer authenticator; nothing below [`cli`] reads flags, environment or files.
//!
//! - [`workload`]: the SPIFFE Workload API: its address, the sources, and what went wrong
//! - [`tls`]: the X.509 source as rustls configurations
//! - [`bearer`]: a request's head → the caller that it proves
//! - [`serve`]: accept → TLS → HTTP → drain
//! - [`outbound`]: requests to a target verified by SPIFFE ID
//! - [`forward`]: clean a request and send it to a verified upstream
//! - [`body`]: the one body type that all responses have
//! - [`listen`], [`runtime`], [`shutdown`]: sockets, one runtime per core, signals
//! - [`cli`], [`telemetry`]: flags that binaries share, logs

pub mod bearer;
pub mod body;
mod cause;
pub mod cli;
mod fair;
mod fields;
pub mod forward;
mod http2;
pub mod listen;
pub mod outbound;
pub mod peer;
mod process;
pub mod runtime;
pub mod serve;
mod shares;
pub mod shown;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod workload;
