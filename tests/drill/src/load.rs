//! Runs callers that keep their connection and callers that open one per request.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use common::lock::lock;
use tokio::task::JoinSet;

use crate::{caller::Caller, request::Sequence, tally::Tally};

/// The number of callers that keep a connection, and of those that open one for each request.
pub(crate) const KEPT: u32 = 32;
pub(crate) const RECONNECTING: u32 = 4;
/// The interval at which a waiting caller reads the pace.
const LOOK: Duration = Duration::from_millis(20);

/// Holds the callers.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    _callers: JoinSet<()>,
}

struct Shared {
    caller: Arc<Caller>,
    tally: Mutex<Tally>,
    /// The time between two requests of one caller, in µs.
    pause: AtomicU64,
}

/// The callers send no requests.
const AT_REST: u64 = u64::MAX;

impl Traffic {
    /// Starts callers that send nothing until [`Self::go`].
    pub(crate) fn new(caller: Arc<Caller>) -> Self {
        let shared = Arc::new(Shared {
            caller,
            tally: Mutex::default(),
            pause: AtomicU64::new(AT_REST),
        });
        let mut callers = JoinSet::new();
        for index in 0..KEPT + RECONNECTING {
            let sequence = Sequence::of(index.into());
            callers.spawn(Arc::clone(&shared).call(sequence, index < KEPT));
        }
        Self {
            shared,
            _callers: callers,
        }
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.shared.caller
    }

    pub(crate) fn shared_caller(&self) -> Arc<Caller> {
        Arc::clone(&self.shared.caller)
    }

    /// Sends this many requests a second from now on, or as many as are answered.
    pub(crate) fn go(&self, per_second: Option<f64>) {
        let callers = f64::from(KEPT + RECONNECTING);
        let pause = per_second.map_or(0, |rate| (callers / rate * 1e6) as u64);
        self.shared.pause.store(pause, Relaxed);
    }

    /// Sends this part of the requests a second that `other` sends, from now on.
    pub(crate) fn go_with(&self, other: &Self, part: f64) {
        let pause = other.shared.pause.load(Relaxed);
        let slower = match pause {
            AT_REST => AT_REST,
            pause => (pause as f64 / part) as u64,
        };
        self.shared.pause.store(slower, Relaxed);
    }

    pub(crate) fn rest(&self) {
        self.shared.pause.store(AT_REST, Relaxed);
    }

    /// Returns the outcomes of the requests since the last call.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *lock(&self.shared.tally))
    }

    /// Returns the number of requests since [`Self::take`].
    pub(crate) fn requests(&self) -> u64 {
        lock(&self.shared.tally).requests()
    }
}

impl Shared {
    async fn call(self: Arc<Self>, sequence: Sequence, keep: bool) {
        let mut kept = None;
        let mut due = Instant::now();
        for shape in sequence {
            due = self.until_due(due).await;
            let (begun, mut reopened) = (Instant::now(), false);
            let outcome = self.caller.exchange(&mut kept, &mut reopened, shape).await;
            let mut tally = lock(&self.tally);
            tally.reopened += u64::from(reopened);
            tally.count(shape.kind(), outcome, begun.elapsed());
            drop(tally);
            if !keep {
                kept = None;
            }
        }
    }

    /// Waits until this caller's next request is due, and returns when the one after that is. A
    /// caller that was delayed does not catch up.
    async fn until_due(&self, due: Instant) -> Instant {
        loop {
            let pause = self.pause.load(Relaxed);
            if pause != AT_REST {
                let now = Instant::now();
                let due = due.max(now.checked_sub(LOOK).unwrap_or(now));
                tokio::time::sleep_until(due.into()).await;
                return due + Duration::from_micros(pause);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use common::workload::WorkloadApi;
    use harness::{PATIENCE, SERVER_ID, Stack, upstream};
    use http::{Request, Response, header};
    use http_body_util::BodyExt as _;
    use hyper::body::Incoming;
    use serve::body::Body;

    use super::*;
    use crate::{request::Framing, tally::Wanted};

    /// Counts requests that the server has read to their end, by framing. The last count is of
    /// requests without a body.
    static READ: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];
    const ENOUGH: u64 = 1_000;

    /// Answers once the body is complete.
    async fn answer(request: Request<Incoming>) -> Response<Body> {
        let told = request.headers().get(header::CONTENT_LENGTH).cloned();
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let length = request
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len();
        let framing = match told {
            Some(told) => {
                assert_eq!(told, length.to_string());
                Framing::ContentLength as usize
            }
            None if chunked => Framing::Chunked as usize,
            None => 2,
        };
        READ[framing].fetch_add(1, Relaxed);
        Response::new(Body::full("Success!!!"))
    }

    #[tokio::test]
    async fn a_server_that_reads_bodies_sees_all_kinds_and_the_load_no_failure() {
        let stack = Stack::new().await;
        let port = upstream::answering(&stack, &["http/1.1"], answer).await;
        let api = WorkloadApi::new(stack.agent.endpoint().parse().unwrap(), PATIENCE);
        let caller = Caller::new(port, &api, SERVER_ID, SERVER_ID).await;
        let load = Traffic::new(Arc::new(caller.unwrap()));
        load.go(None);
        let enough = async {
            while load.requests() < ENOUGH {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, enough).await.unwrap();
        let tally = load.take();
        let failures = tally.failures(Wanted::default());
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(tally.reopened, 0);
        for read in &READ {
            assert!(read.load(Relaxed) > 100, "{READ:?}");
        }
    }
}
