//! The log lines about refused requests, and their answers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use common::{
    bearer::{Refusal, RefusalAnswer, RefusedBy},
    sanitize::Sanitized,
    throttle::{LogQuotas, RefusedRequest},
};
use http::{Response, request::Parts};
use serve::{
    access::Access,
    body::{self, Body},
    peer::Peer,
    trace::TraceContext,
};
use tracing::warn;

/// Logs refused requests within the quotas, and answers them.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    pub(crate) quotas: Arc<LogQuotas>,
    /// The number of requests that were let through and would have been refused.
    pub(crate) observed: Arc<AtomicU64>,
}

impl Refusals {
    /// Logs a refused request, unless the quota is used up. `so_far` is the number of requests that were let
    /// through, if this one is too.
    pub(crate) fn log(&self, refusal: &Refusal, head: &Parts, so_far: Option<u64>) {
        let Some(peer) = head.extensions.get::<Peer>() else {
            return;
        };
        let (status, reason) = (refusal.status(), refusal.reason());
        let what = match so_far {
            Some(_) => "let through by --enforce observe: ",
            None => "",
        };
        let noted = self.quotas.note(status, peer.source(), || {
            let fault = format_args!("{what}{refusal}");
            let refused = RefusedRequest::new(status, reason, fault, peer)
                .of(head.method.as_str(), head.uri.path());
            match refusal.verified_caller() {
                Some(caller) => refused.of_caller(&caller.id),
                None => refused.claimed_by(&head.headers),
            }
        });
        let Some(left_out) = noted else {
            return;
        };
        let (status, remedy) = (status.as_u16(), remedy(refusal));
        let (method, path) = request(head);
        let [trace_id, span_id] = TraceContext::ids_in(&head.headers);
        warn!(
            %peer,
            status,
            %reason,
            %method,
            %path,
            trace_id,
            span_id,
            left_out,
            so_far,
            "{what}{refusal}{remedy}"
        );
    }

    /// Counts a request that is let through, and logs it.
    pub(crate) fn observed(&self, refusal: &Refusal, head: &Parts) {
        let so_far = self.observed.fetch_add(1, Relaxed) + 1;
        self.log(refusal, head, Some(so_far));
    }
}

impl RefusalAnswer<Body> for Refusals {
    fn answer(&self, refusal: &Refusal, head: &Parts) -> Response<Body> {
        note(refusal, head);
        self.log(refusal, head, None);
        answer_refusal(refusal)
    }

    fn observe(&self, refusal: &Refusal, head: &Parts) {
        self.observed(refusal, head);
    }
}

/// Notes a refusal in the access log.
pub(crate) fn note(refusal: &Refusal, head: &Parts) {
    if let Some(access) = head.extensions.get::<Access>() {
        access.verified(refusal.verified_caller().map(|caller| &caller.id));
    }
}

/// Returns method and path of a request. The query is not logged, because callers put secrets there.
fn request(head: &Parts) -> (Sanitized<&str>, Sanitized<&str>) {
    (Sanitized(head.method.as_str()), Sanitized(head.uri.path()))
}

/// Returns the end of a refusal's log line, which names the flag that would allow the caller.
fn remedy(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotAllowed {
            by: RefusedBy::MembersOf(_),
            ..
        } => " without --allow",
        _ => "",
    }
}

/// Returns the answer to a refused request. It tells only the status and the challenge.
#[must_use]
pub fn answer_refusal(refusal: &Refusal) -> Response<Body> {
    let (head, ()) = refusal.response().into_parts();
    let mut response = body::status(head.status);
    response.headers_mut().extend(head.headers);
    body::because(refusal.reason(), response)
}
