//! The load consists of callers that keep their connection and callers that open one per request.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{caller::Caller, request::Sequence, tally::Tally};

/// Connections that are kept, and callers that open one for each request.
pub(crate) const KEPT: u32 = 32;
pub(crate) const RECONNECTING: u32 = 4;
/// How often a caller that has no turn yet looks at what its pace is.
const LOOK: Duration = Duration::from_millis(20);

/// The callers at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    _callers: JoinSet<()>,
}

struct Shared {
    caller: Arc<Caller>,
    tally: Mutex<Tally>,
    /// Between two requests of one caller, in µs.
    pause: AtomicU64,
}

/// Nobody makes requests.
const AT_REST: u64 = u64::MAX;

impl Load {
    /// Callers that are at rest, until [`Self::go`].
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

    /// From now on so many requests a second; as many as there can be without a number.
    pub(crate) fn go(&self, per_second: Option<f64>) {
        let callers = f64::from(KEPT + RECONNECTING);
        let pause = per_second.map_or(0, |rate| (callers / rate * 1e6) as u64);
        self.shared.pause.store(pause, Relaxed);
    }

    pub(crate) fn rest(&self) {
        self.shared.pause.store(AT_REST, Relaxed);
    }

    /// What became of the requests since the last time.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *lock(&self.shared.tally))
    }

    /// How many there were since [`Self::take`].
    pub(crate) fn requests(&self) -> u64 {
        lock(&self.shared.tally).requests()
    }
}

impl Shared {
    async fn call(self: Arc<Self>, sequence: Sequence, keep: bool) {
        let mut kept = None;
        let mut due = Instant::now();
        for shape in sequence {
            due = self.turn(due).await;
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

    /// Waits for this caller's next turn; when the one after that is due. One that was held up does
    /// not make up for it.
    async fn turn(&self, due: Instant) -> Instant {
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

/// Locks a mutex; nothing panics while it holds one of these.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Counts requests that the server has read to their end, by framing; the last are without a body.
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
        let load = Load::new(Arc::new(caller.unwrap()));
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
