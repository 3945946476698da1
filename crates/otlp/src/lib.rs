//! Export of spans to an OpenTelemetry collector: OTLP over HTTP, as Protocol Buffers. The crate `process` uses it with
//! the feature `otlp`.
//!
//! A core puts the span of a request into a bounded queue after the answer. One task of the main thread takes spans
//! from there in batches, so that a slow collector costs spans and delays no request.
//!
//! - [`Endpoint`]: the URL of the collector
//! - `span`, `message`: a span with its attributes, and the messages of the protocol
//! - [`Exporter`]: the task

mod endpoint;
mod export;
mod message;
mod span;

pub use self::{
    endpoint::Endpoint,
    export::{Exporter, Settings},
};
