//! The export of spans to an OpenTelemetry collector, with its flags.
//!
//! - `otlp`: the export, in a build with the feature of that name
//! - `none`: a build without the feature has neither the flags nor the export

#[cfg(not(feature = "otlp"))]
mod none;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub(crate) use self::none::{Exporter, SpanArgs};
#[cfg(feature = "otlp")]
pub(crate) use self::otlp::{Exporter, SpanArgs};
