//! The access log: a line at the end of each request. The span of a request is made from the same entry.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use common::{reason::Reason, sanitize::Sanitized};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, request::Parts};
use spiffe::SpiffeId;
use tokio::time::Instant;
use tracing::{field::display, info};

use crate::{
    peer::Peer,
    spans::{PendingSpan, Span, Spans},
    trace::{TRACEPARENT, TraceContext},
};

/// The longest path of a span, in characters.
const MAX_PATH: usize = 1024;

/// The requests that have a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// All requests.
    All,
    /// The requests that this process answers instead of serving them.
    Refused,
    /// No request.
    None,
}

/// The log and the spans for which a listener's requests have entries.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) log: AccessLog,
    pub(crate) spans: Option<Arc<Spans>>,
}

/// A request's entry in the access log. It is among the extensions of a request that may have a line. Clones are
/// the same entry.
#[derive(Clone, Debug)]
pub struct Access(Arc<Record>);

#[derive(Debug)]
struct Record {
    log: AccessLog,
    span: Option<PendingSpan>,
    begun: Instant,
    protocol: Version,
    request: LoggedRequest,
    /// The request that a gateway's check asks about.
    checked: OnceLock<LoggedRequest>,
    caller: OnceLock<Arc<SpiffeId>>,
    verification: OnceLock<Duration>,
    upstream: OnceLock<Duration>,
    /// Set if the upstream accepts the credential of the request.
    is_accepted: AtomicBool,
    answer: OnceLock<(StatusCode, Option<Reason>)>,
    received: AtomicU64,
    sent: AtomicU64,
}

/// The request that a line is about.
#[derive(Debug)]
struct LoggedRequest {
    method: Method,
    uri: Uri,
    trace: Option<TraceContext>,
    peer: Peer,
}

impl Noted {
    /// Returns the use for the log and the spans of a listener, or `None` if neither needs entries.
    pub(crate) fn new(log: Option<AccessLog>, spans: Option<Arc<Spans>>) -> Option<Self> {
        let log = log.unwrap_or(AccessLog::None);
        (log != AccessLog::None || spans.is_some()).then_some(Self { log, spans })
    }
}

impl Access {
    /// Returns the entry of a request of `peer` that began at `begun`, or `None` if neither the log
    /// nor a span needs it.
    pub(crate) fn of<B>(
        request: &Request<B>,
        peer: &Peer,
        begun: Instant,
        noted: &Noted,
    ) -> Option<Self> {
        let trace = TraceContext::in_fields(request.headers());
        let spans = noted.spans.as_ref();
        let span = spans.and_then(|spans| spans.begin(request.headers(), trace.as_ref()));
        (noted.log != AccessLog::None || span.is_some()).then(|| {
            Self(Arc::new(Record {
                log: noted.log,
                span,
                begun,
                protocol: request.version(),
                request: LoggedRequest {
                    method: request.method().clone(),
                    uri: request.uri().clone(),
                    trace,
                    peer: peer.clone(),
                },
                checked: OnceLock::new(),
                caller: OnceLock::new(),
                verification: OnceLock::new(),
                upstream: OnceLock::new(),
                is_accepted: AtomicBool::new(false),
                answer: OnceLock::new(),
                received: AtomicU64::new(0),
                sent: AtomicU64::new(0),
            }))
        })
    }

    /// Returns the trace of the request, with a span in it. It is the span of this process if that is recorded for
    /// certain, and otherwise the caller's.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        let own = self.recorded_span().map(|span| &span.context);
        own.or(self.0.request.trace.as_ref())
    }

    /// Sets the `traceparent` of the request that is sent upstream, if this process has a span for it. A
    /// `tracestate` without a trace of the caller is removed.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        let span = self.0.span.as_ref();
        let Some(span) = span.filter(|span| span.is_passed_on(self.is_verified())) else {
            return;
        };
        headers.insert(&TRACEPARENT, span.context.field().clone());
        if self.0.request.trace.is_none() {
            headers.remove("tracestate");
        }
    }

    fn is_verified(&self) -> bool {
        self.0.caller.get().is_some()
    }

    fn recorded_span(&self) -> Option<&PendingSpan> {
        let is_accepted = self.0.is_accepted.load(Relaxed);
        let span = self.0.span.as_ref();
        span.filter(|span| span.is_recorded(self.is_verified(), is_accepted))
    }

    /// Notes that the caller was verified, or refused, just now. `caller` is its ID if it is verified.
    pub fn verified(&self, caller: Option<&Arc<SpiffeId>>) {
        // The first note of each kind counts.
        let _ = self.0.verification.set(self.0.begun.elapsed());
        if let Some(caller) = caller {
            let _ = self.0.caller.set(Arc::clone(caller));
        }
    }

    /// Notes the time that the upstream took until its answer began.
    pub fn upstream(&self, took: Duration) {
        let _ = self.0.upstream.set(took);
    }

    /// Notes that the upstream accepts the credential of the request.
    pub fn accepted(&self) {
        self.0.is_accepted.store(true, Relaxed);
    }

    /// Notes that the request is a gateway's check of a request of `peer` with this head.
    pub fn checks(&self, head: &Parts, peer: &Peer) {
        let _ = self.0.checked.set(LoggedRequest {
            method: head.method.clone(),
            uri: head.uri.clone(),
            trace: TraceContext::in_fields(&head.headers),
            peer: peer.clone(),
        });
    }

    pub(crate) fn answered(&self, status: StatusCode, reason: Option<Reason>) {
        let _ = self.0.answer.set((status, reason));
    }

    /// Notes how much of the request's body has come.
    pub(crate) fn received(&self, bytes: u64) {
        self.0.received.store(bytes, Relaxed);
    }

    /// Notes that a part of the answer's body is sent.
    pub(crate) fn sent(&self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Logs and records the request, which took this time.
    pub(crate) fn end(&self, took: Duration) {
        self.log(took);
        if let Some(span) = self.recorded_span() {
            let span_of = || self.0.span(span.context.clone(), took);
            span.record(span_of, &self.0.request.peer);
        }
    }

    fn log(&self, took: Duration) {
        let record = &*self.0;
        let (status, reason) = record.outcome();
        let is_logged = match record.log {
            AccessLog::All => true,
            AccessLog::Refused => reason.is_some(),
            AccessLog::None => false,
        };
        if !is_logged {
            return;
        }
        let trace = match record.checked.get() {
            Some(checked) => checked.trace.as_ref(),
            None => self.trace(),
        };
        let LoggedRequest {
            method,
            uri,
            trace: _,
            peer,
        } = record.checked.get().unwrap_or(&record.request);
        let gateway = record.checked.get().map(|_| display(&record.request.peer));
        let [trace_id, span_id] = TraceContext::ids(trace);
        info!(
            target: "access",
            caller = record.caller.get().map(display),
            method = %Sanitized(method.as_str()),
            path = %Sanitized(uri.path()),
            protocol = ?record.protocol,
            status = status.map(|status| status.as_u16()),
            reason = reason.map(display),
            bytes_in = record.received.load(Relaxed),
            bytes_out = record.sent.load(Relaxed),
            duration_ms = millis(took),
            upstream_ms = record.upstream.get().copied().map(millis),
            verification_ms = record.verification.get().copied().map(millis),
            trace_id,
            span_id,
            %peer,
            gateway,
            "request"
        );
    }
}

impl Record {
    /// Returns the status of the answer, and the reason if the request was not served.
    fn outcome(&self) -> (Option<StatusCode>, Option<Reason>) {
        match self.answer.get() {
            Some((status, reason)) => (Some(*status), *reason),
            None => (None, None),
        }
    }

    /// Returns the span of the request, which took this time.
    fn span(&self, context: TraceContext, took: Duration) -> Span {
        let LoggedRequest {
            method,
            uri,
            trace,
            peer,
        } = &self.request;
        let (status, reason) = self.outcome();
        Span {
            context,
            parent: trace.clone(),
            begun: SystemTime::now() - took,
            took,
            method: method.clone(),
            path: uri.path().chars().take(MAX_PATH).collect(),
            protocol: self.protocol,
            peer: peer.clone(),
            caller: self.caller.get().cloned(),
            status,
            reason,
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
            verification: self.verification.get().copied(),
            upstream: self.upstream.get().copied(),
        }
    }
}

/// Returns a time in milliseconds, to the microsecond.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
