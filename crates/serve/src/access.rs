//! The access log: a line at the end of each request.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use common::{reason::Reason, sanitize::Sanitized};
use http::{Method, Request, StatusCode, Uri, Version, request::Parts};
use spiffe::SpiffeId;
use tokio::time::Instant;
use tracing::{field::display, info};

use crate::{peer::Peer, trace::TraceContext};

/// The requests that have a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// All requests.
    All,
    /// The requests that this process answers in place of serving them.
    Refused,
    /// No request.
    None,
}

/// A request's entry in the access log. It is among the extensions of a request that may have a line. Clones are
/// the same entry.
#[derive(Clone, Debug)]
pub struct Access(Arc<Record>);

#[derive(Debug)]
struct Record {
    log: AccessLog,
    begun: Instant,
    protocol: Version,
    request: LoggedRequest,
    /// The request that a gateway's check asks about.
    checked: OnceLock<LoggedRequest>,
    caller: OnceLock<Arc<SpiffeId>>,
    verification: OnceLock<Duration>,
    upstream: OnceLock<Duration>,
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

impl Access {
    /// Returns the entry of a request of `peer` that began at `begun`.
    pub(crate) fn of<B>(
        request: &Request<B>,
        peer: &Peer,
        begun: Instant,
        log: AccessLog,
    ) -> Option<Self> {
        (log != AccessLog::None).then(|| {
            Self(Arc::new(Record {
                log,
                begun,
                protocol: request.version(),
                request: LoggedRequest {
                    method: request.method().clone(),
                    uri: request.uri().clone(),
                    trace: TraceContext::in_fields(request.headers()),
                    peer: peer.clone(),
                },
                checked: OnceLock::new(),
                caller: OnceLock::new(),
                verification: OnceLock::new(),
                upstream: OnceLock::new(),
                answer: OnceLock::new(),
                received: AtomicU64::new(0),
                sent: AtomicU64::new(0),
            }))
        })
    }

    /// Returns the trace that the request belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.0.request.trace.as_ref()
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

    /// Logs the request, which took this time.
    pub(crate) fn log(&self, took: Duration) {
        let record = &*self.0;
        let (status, reason) = match record.answer.get() {
            Some((status, reason)) => (Some(status.as_u16()), *reason),
            None => (None, None),
        };
        if record.log == AccessLog::Refused && reason.is_none() {
            return;
        }
        let LoggedRequest {
            method,
            uri,
            trace,
            peer,
        } = record.checked.get().unwrap_or(&record.request);
        let gateway = record.checked.get().map(|_| display(&record.request.peer));
        let [trace_id, span_id] = TraceContext::fields(trace.as_ref());
        info!(
            target: "access",
            caller = record.caller.get().map(display),
            method = %Sanitized(method.as_str()),
            path = %Sanitized(uri.path()),
            protocol = ?record.protocol,
            status,
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

/// Returns a time in milliseconds, to the microsecond.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
