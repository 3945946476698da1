//! The live counts that the cores of a process share.

use std::sync::Arc;

use common::throttle::{LogQuotas, Quota};

use crate::{
    accept::{Admission, Balance},
    access::AccessLog,
    connection::windows::WideWindows,
    counts::Counts,
    in_flight::InFlightLimit,
    limits::Limits,
    spans::Spans,
    tenure::Tenure,
};

/// A listener's limits and the counts under them. Each core has a clone; all clones share the counts.
#[derive(Clone, Debug)]
pub struct Shared {
    pub(crate) limits: Limits,
    pub(crate) admission: Admission,
    pub(crate) in_flight: InFlightLimit,
    pub(crate) wide_windows: WideWindows,
    pub(crate) balance: Balance,
    /// The time for which the process has its identity; `None` if connections end with the process alone.
    pub(crate) tenure: Option<Tenure>,
    /// The time for which the bundles that verify callers stay the same.
    pub(crate) trust: Option<Tenure>,
    /// The quota of log lines about handshakes that are refused.
    pub(crate) refused: Arc<Quota>,
    /// The quotas of log lines about requests.
    pub(crate) quotas: Arc<LogQuotas>,
    pub(crate) counts: Arc<Counts>,
    /// The requests in the access log, if there is one.
    pub(crate) access: Option<AccessLog>,
    /// The spans of requests, if they are recorded.
    pub(crate) spans: Option<Arc<Spans>>,
}

/// The connections and requests of a listener at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The connections, also those that are in their handshakes.
    pub connections: usize,
    /// The handshakes.
    pub handshakes: usize,
    /// The requests that the process works on.
    pub working: usize,
    /// The requests that wait for their callers.
    pub waiting: usize,
}

impl Shared {
    /// Returns empty counts under `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            admission: Admission::new(&limits),
            in_flight: InFlightLimit::new(limits.max_requests),
            wide_windows: WideWindows::default(),
            balance: Balance::default(),
            tenure: None,
            trust: None,
            refused: Arc::default(),
            quotas: Arc::default(),
            counts: Arc::default(),
            access: None,
            spans: None,
            limits,
        }
    }

    /// Logs these requests at their ends.
    #[must_use]
    pub fn with_access_log(self, access: Option<AccessLog>) -> Self {
        Self { access, ..self }
    }

    /// Records spans of requests.
    #[must_use]
    pub fn with_spans(self, spans: Arc<Spans>) -> Self {
        let spans = Some(spans);
        Self { spans, ..self }
    }

    /// Returns the spans of requests, if they are recorded.
    #[must_use]
    pub fn spans(&self) -> Option<&Arc<Spans>> {
        self.spans.as_ref()
    }

    /// Returns the requests that are logged at their ends. If there is no access log, handlers log the requests
    /// that they serve when these begin.
    #[must_use]
    pub fn access_log(&self) -> Option<AccessLog> {
        self.access
    }

    /// Returns the quotas of log lines about requests, and the last requests that were not served.
    #[must_use]
    pub fn quotas(&self) -> &Arc<LogQuotas> {
        &self.quotas
    }

    /// Returns the counts of connections and requests.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Returns the connections and requests at present.
    #[must_use]
    pub fn open(&self) -> Open {
        let (working, waiting) = self.in_flight.counts();
        Open {
            connections: self.admission.connections(),
            handshakes: self.admission.handshakes(),
            working,
            waiting,
        }
    }

    /// Ends connections with the identity that they were opened under. The triggers of `tenure` must be
    /// used when the process stops too.
    #[must_use]
    pub fn with_tenure(self, tenure: Tenure) -> Self {
        Self {
            tenure: Some(tenure),
            ..self
        }
    }

    /// Ends connections whose peers were verified by their certificates when the bundles change that
    /// verified them.
    #[must_use]
    pub fn with_trust(self, trust: Tenure) -> Self {
        Self {
            trust: Some(trust),
            ..self
        }
    }
}
