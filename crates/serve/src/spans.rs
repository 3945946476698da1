//! Spans of requests, for distributed tracing.
//!
//! A span is made after its request has ended, from the entry of the request in the access log. A request that is
//! not sampled has none. The fields of a request come from its caller. [`Recorded`] therefore decides whether a
//! sampled request has a span, and a limit bounds the spans per second.
//!
//! `tracing-opentelemetry` makes a span when its request begins, and keeps it in a registry until the end. Here a
//! request that is not sampled costs nothing. The crates of OpenTelemetry 0.33 would add 14 crates to the lock file,
//! a second `rand` and a third `getrandom` among them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{count::Counters, reason::Reason, throttle::Quota};
use http::{HeaderMap, Method, StatusCode, Version, header::AUTHORIZATION};
use spiffe::SpiffeId;
use tokio::sync::mpsc;

use crate::{peer::Peer, trace::TraceContext};

/// The sampled requests that have a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// All requests, because their callers are applications of this workload.
    All,
    /// Requests whose callers are verified.
    Verified,
    /// Requests with a credential that the upstream accepts. This process verifies no credential.
    Accepted,
}

common::labels! {
    /// The end of a span that was recorded.
    pub enum SpanEnd {
        /// The collector took it.
        Exported = "exported",
        /// It was over the limit of spans in a second.
        OverLimit = "over_limit",
        /// The spans before it filled the queue.
        QueueFull = "queue_full",
        /// The collector did not take it.
        NotTaken = "not_taken",
    }
}

/// The spans of a process. All cores share them.
#[derive(Debug)]
pub struct Spans {
    recorded: Recorded,
    /// The share of the requests without a trace for which one begins, from 0 to 1.
    sample: f64,
    limit: Quota,
    queue: mpsc::Sender<Span>,
    counts: Arc<Counters<SpanEnd>>,
}

/// The span of a request that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace and this span in it.
    pub context: TraceContext,
    /// The caller's span, unless the trace begins here.
    pub parent: Option<TraceContext>,
    /// The time when the head of the request was complete.
    pub begun: SystemTime,
    /// The time from `begun` to the end of the answer.
    pub took: Duration,
    /// The method of the request.
    pub method: Method,
    /// The path of the request without its query, which is cut if it is long.
    pub path: String,
    /// The version of HTTP that the caller speaks.
    pub protocol: Version,
    /// The peer of the connection.
    pub peer: Peer,
    /// The caller, if this process has verified it.
    pub caller: Option<Arc<SpiffeId>>,
    /// The status of the answer, unless the request ended before.
    pub status: Option<StatusCode>,
    /// The reason, if the request was not served.
    pub reason: Option<Reason>,
    /// The bytes of the request's body that have come.
    pub received: u64,
    /// The bytes of the answer's body that were sent.
    pub sent: u64,
    /// The time until the caller was verified.
    pub verification: Option<Duration>,
    /// The time that the upstream took until its answer began.
    pub upstream: Option<Duration>,
}

/// The span that a request has once it has ended.
#[derive(Debug)]
pub(crate) struct PendingSpan {
    pub(crate) context: TraceContext,
    spans: Arc<Spans>,
}

impl Spans {
    /// Returns spans that are sent to `queue`, at most `limit` a second, and half as many of one source. A trace begins
    /// for the share `sample` of the requests without one, from 0 to 1.
    #[must_use]
    pub fn new(
        recorded: Recorded,
        sample: f64,
        limit: u32,
        queue: mpsc::Sender<Span>,
        counts: Arc<Counters<SpanEnd>>,
    ) -> Self {
        Self {
            recorded,
            sample,
            limit: Quota::new(limit, limit.div_ceil(2)),
            queue,
            counts,
        }
    }

    /// Returns the number of spans by their ends.
    #[must_use]
    pub fn counts(&self) -> &Counters<SpanEnd> {
        &self.counts
    }

    /// Returns the span of a request that may be recorded. `caller` is the trace in its fields.
    pub(crate) fn begin(
        self: &Arc<Self>,
        headers: &HeaderMap,
        caller: Option<&TraceContext>,
    ) -> Option<PendingSpan> {
        if self.recorded == Recorded::Accepted && !headers.contains_key(AUTHORIZATION) {
            return None;
        }
        let context = match caller {
            Some(caller) => caller.is_sampled().then(|| caller.child()),
            None => (fastrand::f64() < self.sample).then(TraceContext::begin),
        };
        Some(PendingSpan {
            context: context?,
            spans: Arc::clone(self),
        })
    }
}

impl PendingSpan {
    /// Returns whether the request that is sent upstream belongs to this span. `is_verified` tells whether its caller
    /// is verified.
    pub(crate) fn is_passed_on(&self, is_verified: bool) -> bool {
        match self.spans.recorded {
            Recorded::All | Recorded::Accepted => true,
            Recorded::Verified => is_verified,
        }
    }

    /// Returns whether the span is recorded. `is_verified` tells whether the caller of its request is verified, and
    /// `is_accepted` whether the upstream has accepted its credential.
    pub(crate) fn is_recorded(&self, is_verified: bool, is_accepted: bool) -> bool {
        match self.spans.recorded {
            Recorded::All => true,
            Recorded::Verified => is_verified,
            Recorded::Accepted => is_accepted,
        }
    }

    /// Sends the span to the queue, unless the limit is reached or the queue is full.
    pub(crate) fn record(&self, span: impl FnOnce() -> Span, peer: &Peer) {
        let spans = &self.spans;
        if spans.limit.take(peer.source()).is_none() {
            spans.counts.add(SpanEnd::OverLimit, 1);
        } else if let Ok(permit) = spans.queue.try_reserve() {
            permit.send(span());
        } else {
            spans.counts.add(SpanEnd::QueueFull, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Request;
    use tokio::time::Instant;

    use super::*;
    use crate::access::{Access, AccessLog, Noted};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";

    /// Returns spans of which one fits into the queue, and that queue.
    fn spans(recorded: Recorded, sample: f64, limit: u32) -> (Arc<Spans>, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(1);
        let spans_of = Spans::new(recorded, sample, limit, queue, Arc::default());
        (Arc::new(spans_of), spans)
    }

    fn begin(spans: &Arc<Spans>, flags: Option<char>, authorization: bool) -> Option<Access> {
        let mut request = Request::new(());
        if let Some(flags) = flags {
            let parent = format!("{PARENT}{flags}").parse().unwrap();
            request.headers_mut().insert("traceparent", parent);
        }
        if authorization {
            let token = "Bearer x".parse().unwrap();
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        let noted = Noted {
            log: AccessLog::None,
            spans: Some(Arc::clone(spans)),
        };
        let peer = Peer::from(SocketAddr::from(([192, 0, 2, 7], 4711)));
        Access::of(&request, &peer, Instant::now(), &noted)
    }

    fn caller() -> Arc<SpiffeId> {
        Arc::new("spiffe://example.org/client".parse().unwrap())
    }

    #[test]
    fn request_is_sampled_as_its_caller_says_or_by_chance_u034() {
        for (flags, sample, expected) in [
            (Some('1'), 0.0, true),
            (Some('3'), 0.0, true),
            (Some('0'), 1.0, false),
            (Some('2'), 1.0, false),
            (None, 0.0, false),
            (None, 1.0, true),
        ] {
            let (spans, _queue) = spans(Recorded::All, sample, 9);
            let access = begin(&spans, flags, false);
            assert_eq!(access.is_some(), expected, "{flags:?} {sample}");
        }
    }

    #[test]
    fn span_depends_on_the_caller_and_on_the_upstream_u035() {
        use Recorded::{Accepted, All, Verified};
        // The columns tell whether the caller is verified, has a credential, and has one that the upstream accepts.
        // The last two tell whether the span is passed on and recorded.
        for (recorded, verified, credential, accepted, passed_on, is_recorded) in [
            (All, false, false, false, true, true),
            (Verified, false, true, true, false, false),
            (Verified, true, true, false, true, true),
            (Accepted, false, false, true, false, false),
            (Accepted, false, true, false, true, false),
            (Accepted, false, true, true, true, true),
        ] {
            let case = (recorded, verified, credential, accepted);
            let (spans, mut queue) = spans(recorded, 0.0, 9);
            let mut headers = HeaderMap::new();
            if let Some(access) = begin(&spans, Some('1'), credential) {
                access.verified(verified.then(caller).as_ref());
                access.pass_on(&mut headers);
                if accepted {
                    access.accepted();
                }
                access.end(Duration::from_millis(1));
            }
            assert_eq!(headers.contains_key("traceparent"), passed_on, "{case:?}");
            let span = queue.try_recv().ok();
            assert_eq!(span.is_some(), is_recorded, "{case:?}");
            if let Some(span) = span {
                assert_eq!(span.caller, verified.then(caller));
                assert_eq!(span.parent.unwrap().span_id(), "00f067aa0ba902b7");
                assert_eq!(headers["traceparent"], span.context.field());
            }
        }
    }

    #[test]
    fn spans_over_the_limit_or_without_room_in_the_queue_are_counted() {
        for (limit, end) in [(2, SpanEnd::OverLimit), (9, SpanEnd::QueueFull)] {
            let (spans, mut queue) = spans(Recorded::All, 0.0, limit);
            for _ in 0..2 {
                let access = begin(&spans, Some('1'), false).unwrap();
                access.end(Duration::ZERO);
            }
            assert!(queue.try_recv().is_ok() && queue.try_recv().is_err());
            let counted = spans.counts().read_all();
            let counted: Vec<_> = counted.filter(|(_, number)| *number > 0).collect();
            assert_eq!(counted, [(end, 1)]);
        }
    }
}
