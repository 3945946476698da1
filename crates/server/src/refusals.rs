//! The log lines about refused requests, and their answers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use common::{
    bearer::{Refusal, RefusalAnswer, Rule},
    sanitize::Sanitized,
    throttle::LogQuotas,
};
use http::{Response, request::Parts};
use serve::{
    body::{self, Body},
    peer::Peer,
};
use tracing::warn;

/// Logs refused requests within the quotas, and answers them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) quotas: Arc<LogQuotas>,
    /// The number of requests that were let through and would have been refused.
    pub(crate) observed: Arc<AtomicU64>,
}

impl Refusals {
    /// Permits a line about a refused request. Returns its peer and the number of lines that were left
    /// out.
    fn permit<'a>(&self, refusal: &Refusal, head: &'a Parts) -> Option<(&'a Peer, Option<u64>)> {
        let quota = match refusal.status().is_server_error() {
            true => &self.quotas.failed,
            false => &self.quotas.refused,
        };
        let peer = head.extensions.get::<Peer>()?;
        Some((peer, quota.take(peer.source())?))
    }
}

impl RefusalAnswer<Body> for Refusals {
    fn answer(&self, refusal: &Refusal, head: &Parts) -> Response<Body> {
        if let Some((peer, left_out)) = self.permit(refusal, head) {
            let (status, remedy) = (refusal.status().as_u16(), remedy(refusal));
            let (method, path) = request(head);
            warn!(%peer, status, %method, %path, left_out, "{refusal}{remedy}");
        }
        answer_refusal(refusal)
    }

    fn observe(&self, refusal: &Refusal, head: &Parts) {
        let so_far = self.observed.fetch_add(1, Relaxed) + 1;
        if let Some((peer, left_out)) = self.permit(refusal, head) {
            let (status, remedy) = (refusal.status().as_u16(), remedy(refusal));
            let (method, path) = request(head);
            warn!(%peer, status, %method, %path, left_out, so_far, "let through by --enforce observe: {refusal}{remedy}");
        }
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
            rule: Rule::MembersOf(_),
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
    response
}
