//! The last requests that were not served, for operators.

use std::{collections::VecDeque, sync::Mutex, time::SystemTime};

use http::{HeaderMap, StatusCode};
use spiffe::SpiffeId;

use crate::{bearer::claimed_id, lock::lock, reason::Reason, sanitize::Sanitized};

/// The number of requests that are kept.
const MAX: usize = 50;

/// The longest text of a fault, in characters.
const MAX_FAULT: usize = 300;

/// The last requests that were not served and that have a log line. All cores share it.
#[derive(Debug, Default)]
pub struct RecentRefusals(Mutex<VecDeque<RefusedRequest>>);

/// A request that was not served. It has no token and no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The time of the refusal.
    pub at: SystemTime,
    /// The status of the answer.
    pub status: StatusCode,
    /// The reason.
    pub reason: Reason,
    /// The text of the fault, as it is in the log.
    pub fault: String,
    /// The address of the peer.
    pub peer: String,
    /// The SPIFFE ID of the caller if it was verified. Otherwise it is the one that the caller's token claims.
    pub claimed: Option<SpiffeId>,
    /// The method and the path, sanitized, if they are known.
    pub request: Option<String>,
}

impl RefusedRequest {
    /// Returns a request that was not served now.
    #[must_use]
    pub fn new(
        status: StatusCode,
        reason: Reason,
        fault: impl ToString,
        peer: impl ToString,
    ) -> Self {
        Self {
            at: SystemTime::now(),
            status,
            reason,
            fault: fault.to_string().chars().take(MAX_FAULT).collect(),
            peer: peer.to_string(),
            claimed: None,
            request: None,
        }
    }

    /// Adds the caller that the fields of the request claim.
    #[must_use]
    pub fn claimed_by(self, headers: &HeaderMap) -> Self {
        let claimed = claimed_id(headers);
        Self { claimed, ..self }
    }

    /// Adds the caller that was verified.
    #[must_use]
    pub fn of_caller(self, id: &SpiffeId) -> Self {
        let claimed = Some(id.clone());
        Self { claimed, ..self }
    }

    /// Adds the method and the path.
    #[must_use]
    pub fn of(self, method: &str, path: &str) -> Self {
        let request = Some(format!("{} {}", Sanitized(method), Sanitized(path)));
        Self { request, ..self }
    }
}

impl RecentRefusals {
    /// Adds a request. The request is dropped while another core holds the lock.
    pub fn add(&self, request: RefusedRequest) {
        let Ok(mut recent) = self.0.try_lock() else {
            return;
        };
        if recent.len() >= MAX {
            recent.pop_front();
        }
        recent.push_back(request);
    }

    /// Returns the requests, the last one first.
    #[must_use]
    pub fn list(&self) -> Vec<RefusedRequest> {
        lock(&self.0).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_requests_are_kept_with_their_request_and_a_bounded_fault() {
        let recent = RecentRefusals::default();
        for n in 0..=MAX {
            let fault = format!("{n} {}", "x".repeat(1000));
            let status = StatusCode::UNAUTHORIZED;
            let refused = RefusedRequest::new(status, Reason::NoToken, fault, "127.0.0.1:1");
            recent.add(refused.of("GET", "/a\n"));
        }
        let list = recent.list();
        assert_eq!(list.len(), MAX);
        assert!(list[0].fault.starts_with("50 ") && list[MAX - 1].fault.starts_with("1 "));
        assert_eq!(list[0].fault.len(), MAX_FAULT);
        assert_eq!(list[0].request.as_deref(), Some(r"GET /a\n"));
    }
}
