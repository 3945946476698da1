//! The task that sends spans to the collector, in batches.

use std::{sync::Arc, time::Duration};

use common::{backoff::Backoff, count::Counters, sanitize::Sanitized};
use forward::outbound::{Client, ExclusiveLimit, Security, Timeouts, Upstream};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use prost::Message;
use serve::{
    shutdown::{self, Shutdown, Trigger},
    spans::{Recorded, Span, SpanEnd, Spans},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    endpoint::Endpoint,
    message::{
        ExportRequest, ExportResponse, KeyValue, Resource, ResourceSpans, Scope, ScopeSpans,
    },
    span,
};

/// The most spans that wait for the task, and the most of one request to the collector.
const QUEUE: usize = 2048;
const BATCH: usize = 512;

/// The longest time for which a span waits for others.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time for a connection to the collector, and for its answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);

/// The number of times that a batch is sent, and the pauses between them. The longest pause also bounds the one
/// that the collector asks for.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
const BACKOFF: Backoff = Backoff::new(PAUSE, Duration::from_secs(30));

/// The time for the last spans of a process that stops.
const LAST: Duration = Duration::from_secs(5);

/// The longest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The collector, and the spans that are sent to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector.
    pub endpoint: Endpoint,
    /// The security of connections to it.
    pub security: Security,
    /// The name of the program.
    pub role: &'static str,
    /// The sampled requests that have a span.
    pub recorded: Recorded,
    /// The share of the requests without a trace for which one begins, from 0 to 1.
    pub sample: f64,
    /// The limit of spans in a second.
    pub max_spans: u32,
    /// The name of the service, if it is not that of the program.
    pub service: Option<String>,
    /// Further attributes of the process.
    pub resource: Vec<(String, String)>,
}

/// Exports the spans of a process.
#[derive(Debug)]
pub struct Exporter {
    stop: Trigger,
    task: JoinHandle<()>,
}

/// The state of the task.
struct Export {
    client: Client<Full<Bytes>>,
    endpoint: Endpoint,
    scheme: &'static str,
    role: &'static str,
    resource: Resource,
    queue: mpsc::Receiver<Span>,
    counts: Arc<Counters<SpanEnd>>,
    stop: Shutdown,
    /// The spans that were not taken since the collector has failed.
    failed: Option<u64>,
}

/// The reason why a batch was not taken.
struct Fault {
    text: String,
    /// The time after which the batch may be sent again, if that can help.
    again: Option<Duration>,
}

impl Exporter {
    /// Starts to export. Returns the exporter and its spans.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    #[must_use]
    pub fn start(settings: Settings) -> (Self, Spans) {
        let url = settings.endpoint.url();
        if !settings.endpoint.is_https() && !url.is_local() {
            warn!(
                "spans go to {url} without TLS, so that paths and SPIFFE IDs can be read on the way"
            );
        }
        let (queue, finished) = mpsc::channel(QUEUE);
        let (stop, stopping) = shutdown::channel();
        let counts = Arc::<Counters<SpanEnd>>::default();
        let spans = Spans::new(
            settings.recorded,
            settings.sample,
            settings.max_spans,
            queue,
            Arc::clone(&counts),
        );
        let export = Export::new(settings, finished, counts, stopping);
        let task = tokio::spawn(export.run());
        (Self { stop, task }, spans)
    }

    /// Exports the last spans.
    pub async fn finish(self) {
        self.stop.stop();
        // A panic of the task is logged where it happens.
        let _ = timeout(LAST, self.task).await;
    }
}

impl Export {
    fn new(
        settings: Settings,
        queue: mpsc::Receiver<Span>,
        counts: Arc<Counters<SpanEnd>>,
        stop: Shutdown,
    ) -> Self {
        Self {
            resource: resource(&settings),
            client: Client::new(collector(&settings.endpoint), settings.security),
            endpoint: settings.endpoint,
            // Applications reach the client of their workload without TLS.
            scheme: match settings.recorded {
                Recorded::All => "http",
                Recorded::Verified | Recorded::Accepted => "https",
            },
            role: settings.role,
            queue,
            counts,
            stop,
            failed: None,
        }
    }

    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.fill(&mut batch).await {
            self.export(&batch).await;
            batch.clear();
        }
    }

    /// Waits for spans. Returns `false` if there will be none.
    async fn fill(&mut self, batch: &mut Vec<Span>) -> bool {
        let stopping = self.stop.clone();
        let first = tokio::select! {
            biased;
            first = self.queue.recv_many(batch, BATCH) => first,
            () = stopping.requested() => 0,
        };
        if first == 0 {
            return false;
        }
        let stopping = self.stop.clone();
        let full = async {
            while batch.len() < BATCH {
                let left = BATCH - batch.len();
                if self.queue.recv_many(batch, left).await == 0 {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            () = full => {}
            () = sleep(INTERVAL) => {}
            () = stopping.requested() => {}
        }
        true
    }

    /// Exports a batch, and counts its spans.
    async fn export(&mut self, batch: &[Span]) {
        let number = batch.len() as u64;
        let body = Bytes::from(self.request(batch).encode_to_vec());
        let rejected = self.send_until_taken(&body).await;
        let rejected = rejected.map_or(number, |rejected| rejected.min(number));
        if let Some(failed) = &mut self.failed {
            *failed += rejected;
        }
        self.counts.add(SpanEnd::NotTaken, rejected);
        self.counts.add(SpanEnd::Exported, number - rejected);
    }

    /// Sends a batch, and again if that can help. Returns the number of its spans that the collector did not take, or
    /// `None` if it did not take the batch.
    async fn send_until_taken(&mut self, body: &Bytes) -> Option<u64> {
        for attempt in 1..=ATTEMPTS {
            let fault = match self.send(body.clone()).await {
                Ok(rejected) => {
                    self.note_success();
                    return Some(rejected);
                }
                Err(fault) => fault,
            };
            self.note_failure(&fault);
            let is_last = attempt == ATTEMPTS || self.stop.is_requested();
            let again = fault.again.filter(|_| !is_last)?;
            tokio::select! {
                () = sleep(again.max(BACKOFF.pause(attempt))) => {}
                () = self.stop.clone().requested() => {}
            }
        }
        None
    }

    fn request(&self, batch: &[Span]) -> ExportRequest {
        let spans = batch.iter().map(|one| span::message(one, self.scheme));
        let scope = Scope {
            name: self.role.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        ExportRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: spans.collect(),
                }],
            }],
        }
    }

    /// Sends a batch. Returns the number of its spans that the collector did not take.
    async fn send(&self, body: Bytes) -> Result<u64, Fault> {
        let request = post(self.endpoint.path().clone(), body);
        let exchange = async {
            let response = self.client.request(request).await;
            let (head, body) = response.map_err(Fault::passing)?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(Fault::passing)?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        match timeout(CONNECT + ANSWER, exchange).await {
            Ok(response) => taken(&response?),
            Err(_) => Err(Fault::passing("it takes too long")),
        }
    }

    /// Logs that the collector fails, when it begins to.
    fn note_failure(&mut self, fault: &Fault) {
        if self.failed.is_none() {
            self.failed = Some(0);
            let (collector, fault) = (self.endpoint.url(), &fault.text);
            warn!(%collector, "spans are not exported: {fault}");
        }
    }

    /// Logs that the collector works, when it has failed before.
    fn note_success(&mut self) {
        if let Some(spans) = self.failed.take() {
            info!(not_taken = spans, "spans are exported again");
        }
    }
}

impl Fault {
    /// Returns a fault that may pass.
    fn passing(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            again: Some(PAUSE),
        }
    }
}

/// Returns the collector as an upstream.
fn collector(endpoint: &Endpoint) -> Upstream {
    let timeouts = Timeouts {
        connect: CONNECT,
        response: ANSWER,
        call: ANSWER,
        queue: CONNECT,
    };
    Upstream::new(
        vec![endpoint.url().clone()],
        timeouts,
        ExclusiveLimit::new(2),
    )
}

/// Returns the description of this process.
fn resource(settings: &Settings) -> Resource {
    const NAME: &str = "service.name";
    let others = settings.resource.iter();
    let named = others.clone().find(|(key, _)| key == NAME);
    let of_attributes = || named.map(|(_, value)| value);
    let name = settings.service.as_ref().or_else(of_attributes);
    let name = name.map_or(settings.role, String::as_str);
    let own = [
        KeyValue::new(NAME, name),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let others = others.filter(|(key, _)| key != NAME);
    let others = others.map(|(key, value)| KeyValue::new(key, value.as_str()));
    Resource {
        attributes: own.into_iter().chain(others).collect(),
    }
}

fn post(path: PathAndQuery, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::post(path).body(Full::new(body)).expect("a path");
    let content_type = HeaderValue::from_static("application/x-protobuf");
    request.headers_mut().insert(CONTENT_TYPE, content_type);
    request
}

/// Returns the number of spans that a collector did not take, from its answer to a batch.
fn taken(response: &Response<Bytes>) -> Result<u64, Fault> {
    let status = response.status();
    if status.is_success() {
        // An answer that does not decode rejects no spans.
        let answer = ExportResponse::decode(response.body().clone()).unwrap_or_default();
        let part = answer.partial_success.unwrap_or_default();
        let rejected = part.rejected_spans.try_into().unwrap_or(0);
        if rejected > 0 {
            let message = Sanitized(&part.error_message);
            warn!(rejected, "the collector rejects spans: {message}");
        }
        return Ok(rejected);
    }
    let passes = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let after = response.headers().get(RETRY_AFTER);
    let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
    let after = after.map_or(PAUSE, Duration::from_secs).min(BACKOFF.max());
    Err(Fault {
        text: format!("it answers {status}"),
        again: passes.then_some(after),
    })
}
