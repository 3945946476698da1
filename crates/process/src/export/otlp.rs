//! The flags about spans, and their export ([`otlp`]).

use std::path::PathBuf;

use clap::Args;
use forward::outbound::Security;
use otlp::{Endpoint, Settings};
use serve::{Shared, spans::Recorded};

use crate::{roots, sandbox::Sandbox};

/// Keys and values.
type Attributes = Vec<(String, String)>;

/// The export of spans.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Traces (OTLP)")]
pub(crate) struct SpanArgs {
    /// Send a span of each sampled request to the OpenTelemetry collector at this http or https URL, as OTLP over
    /// HTTP. Its path is /v1/traces unless the URL has one [default: no spans]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,
    /// File of the CA certificates (PEM) that verify an https collector by its host name
    #[arg(long, value_name = "FILE", requires = "otlp_endpoint")]
    otlp_ca: Option<PathBuf>,
    /// Part of the requests without a traceparent for which a trace begins, from 0 to 1. A request with one follows
    /// its sampled flag
    #[arg(long, value_name = "RATIO", default_value = "0", value_parser = ratio)]
    otlp_sample: f64,
    /// Spans a second, half of them about one address. Further ones are dropped and counted
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    otlp_max_spans: u32,
    /// Name of this service in its spans [default: the name of the program]
    #[arg(
        long,
        value_name = "NAME",
        env = "OTEL_SERVICE_NAME",
        hide_env_values = true
    )]
    otlp_service: Option<String>,
    /// Attribute of this process in its spans, or several with commas between them; repeatable
    #[arg(
        long,
        value_name = "KEY=VALUE",
        env = "OTEL_RESOURCE_ATTRIBUTES",
        hide_env_values = true,
        value_parser = attributes
    )]
    otlp_resource: Vec<Attributes>,
}

/// Exports the spans of the process, if there is a collector.
#[derive(Debug)]
pub(crate) struct Exporter(Option<otlp::Exporter>);

impl SpanArgs {
    /// Checks the flags that are used together. `serves` tells whether the process serves requests.
    ///
    /// # Errors
    /// Fails with one line about the first flag that can't be used.
    pub(crate) fn check(&self, serves: bool) -> Result<(), String> {
        let Some(endpoint) = &self.otlp_endpoint else {
            return Ok(());
        };
        if !serves {
            return Err(format!(
                "--otlp-endpoint {} has no effect, because this process serves no requests; remove it",
                endpoint.url()
            ));
        }
        match (endpoint.is_https(), &self.otlp_ca) {
            (true, None) => Err(format!(
                "--otlp-ca is missing: it names the file of the CA certificates that verify {}",
                endpoint.url()
            )),
            (false, Some(_)) => Err(format!(
                "--otlp-ca verifies nothing, because {} has no TLS; remove it, or use https",
                endpoint.url()
            )),
            _ => self.security().map(drop),
        }
    }

    /// Lets a sandbox reach the collector.
    pub(crate) fn within(&self, sandbox: Sandbox) -> Sandbox {
        let Some(endpoint) = &self.otlp_endpoint else {
            return sandbox;
        };
        let sandbox = sandbox.connects(endpoint.url());
        match &self.otlp_ca {
            Some(ca) => sandbox.reads(ca),
            None => sandbox,
        }
    }

    /// Starts the export, if there is a collector. Returns it, and the parts of the listener whose requests have
    /// spans.
    ///
    /// # Errors
    /// Fails when the file of CA certificates can't be read, or has none.
    pub(crate) fn start(
        &self,
        shared: Shared,
        role: &'static str,
        recorded: Recorded,
    ) -> anyhow::Result<(Exporter, Shared)> {
        let Some(endpoint) = self.otlp_endpoint.clone() else {
            return Ok((Exporter(None), shared));
        };
        let (exporter, spans) = otlp::Exporter::start(Settings {
            endpoint,
            security: self.security().map_err(anyhow::Error::msg)?,
            role,
            recorded,
            sample: self.otlp_sample,
            max_spans: self.otlp_max_spans,
            // An empty variable counts as one that is not set.
            service: self.otlp_service.clone().filter(|name| !name.is_empty()),
            resource: self.otlp_resource.iter().flatten().cloned().collect(),
        });
        Ok((Exporter(Some(exporter)), shared.with_spans(spans.into())))
    }

    /// Returns the security of connections to the collector.
    ///
    /// # Errors
    /// Fails when the file of CA certificates can't be read, or has none.
    fn security(&self) -> Result<Security, String> {
        let Some(ca) = &self.otlp_ca else {
            return Ok(Security::Plaintext);
        };
        let roots = roots::in_file(ca).map_err(|error| format!("--otlp-ca {error}"))?;
        Ok(Security::HostName {
            config: roots::verifying(roots),
            name: None,
        })
    }
}

impl Exporter {
    /// Exports the last spans.
    pub(crate) async fn finish(self) {
        if let Self(Some(exporter)) = self {
            exporter.finish().await;
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok();
    let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "expected a number from 0 to 1, for example 0.01".into())
}

/// Parses attributes with commas between them.
fn attributes(text: &str) -> Result<Attributes, String> {
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts.map(attribute).collect()
}

/// Parses an attribute, whose value may have percent-encoded octets.
fn attribute(text: &str) -> Result<(String, String), String> {
    let error = || "expected a key and a value, for example deployment.environment.name=staging";
    let (key, value) = text.split_once('=').ok_or_else(error)?;
    let (key, value) = (key.trim(), value.trim());
    let value = percent_encoding::percent_decode_str(value).decode_utf8();
    let value = value.map_err(|_| error())?.into_owned();
    if key.is_empty() {
        Err(error().into())
    } else {
        Ok((key.to_owned(), value))
    }
}
