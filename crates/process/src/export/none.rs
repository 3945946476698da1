//! The stand-ins for `otlp` in a build without that feature.

use clap::Args;
use serve::{Shared, spans::Recorded};

use crate::sandbox::Sandbox;

/// The flags of a build without spans.
#[derive(Args, Clone, Debug)]
pub(crate) struct SpanArgs {}

/// Exports nothing.
#[derive(Debug)]
pub(crate) struct Exporter;

impl SpanArgs {
    /// Accepts the flags, because there are none.
    pub(crate) fn check(&self, _serves: bool) -> Result<(), String> {
        Ok(())
    }

    /// Lets a sandbox reach nothing more.
    pub(crate) fn within(&self, sandbox: Sandbox) -> Sandbox {
        sandbox
    }

    /// Returns the shared parts of a listener unchanged.
    pub(crate) fn start(
        &self,
        shared: Shared,
        _role: &'static str,
        _recorded: Recorded,
    ) -> anyhow::Result<(Exporter, Shared)> {
        Ok((Exporter, shared))
    }
}

impl Exporter {
    /// Has nothing to export.
    pub(crate) async fn finish(self) {}
}
