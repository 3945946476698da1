//! What a connection is doing, and how long it may go on doing so.
//!
//! hyper's own header deadline also runs while a kept-alive connection is idle, so it can't be
//! shorter than the idle timeout; here the two are apart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{Limits, Load};

/// Shared by a connection's I/O, its requests and the deadline that watches both.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    in_flight: AtomicUsize,
    /// When the connection became idle, in ms since `opened`.
    idle_since: AtomicU64,
    /// When a request's first byte came, in ms since `opened`; [`NEVER`] while none has. Only
    /// HTTP/1.1 tells requests apart by their bytes: on HTTP/2 it is for the first request alone.
    header_since: AtomicU64,
    /// A stop was asked for.
    stopping: AtomicBool,
    /// Something was written that has not left yet.
    unsent: AtomicBool,
    /// All requests of the process; this connection's count.
    load: Load,
    /// HTTP/1.1 has one response at a time, and so one reader to wait for.
    pub(super) reader: Arc<Reader>,
}

/// Whether a response waits for its reader, and since when.
#[derive(Debug)]
pub(super) struct Reader {
    created: Instant,
    /// In ms since `created`; [`NEVER`] while the response waits for nobody, or for its source.
    waiting_since: AtomicU64,
}

/// Counts one request as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
    admitted: bool,
}

/// Why a connection has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overdue {
    #[error("idle")]
    Idle,
    #[error("request header not complete in time")]
    Header,
    #[error("response not read in time")]
    Reader,
}

const NEVER: u64 = u64::MAX;

impl Activity {
    /// A fresh connection: the first request's header is due.
    pub(super) fn new(load: &Load) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            header_since: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
            load: load.clone(),
            reader: Reader::new(),
        })
    }

    /// A request's header is complete.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.header_since.store(NEVER, Relaxed);
        InFlight {
            admitted: self.load.enter(),
            activity: Arc::clone(self),
        }
    }

    /// The connection is to end with its next answer.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Returns, with what was overdue, once the connection has outstayed a deadline.
    pub(super) async fn overdue(&self, limits: &Limits) -> Overdue {
        loop {
            let (deadline, what) = self.deadline(limits);
            let now = Instant::now();
            if now >= deadline {
                return what;
            }
            // Looked at again as often as the shorter ones, so that none begun since is missed.
            let shorter = limits.header_timeout.min(limits.body_timeout);
            sleep_until(deadline.min(now + shorter)).await;
        }
    }

    /// Something is to be sent.
    pub(super) fn writes(&self) {
        self.unsent.store(true, Relaxed);
    }

    /// All of it was.
    pub(super) fn has_written(&self) {
        self.unsent.store(false, Relaxed);
    }

    /// Returns once no request was in flight for `time`, from now on, and all answers have left: a
    /// slow reader's last bytes still wait here when the answer's body is long gone.
    pub(super) async fn without_request_for(&self, time: Duration) {
        let from = ms_since(self.opened);
        loop {
            let deadline = match self.in_flight.load(Relaxed) {
                0 => self.at(self.idle_since.load(Relaxed).max(from)) + time,
                _ => Instant::now() + time,
            };
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn deadline(&self, limits: &Limits) -> (Instant, Overdue) {
        if self.in_flight.load(Relaxed) > 0 {
            let since = self.reader.waiting_since().unwrap_or_else(Instant::now);
            return (since + limits.body_timeout, Overdue::Reader);
        }
        match self.header_since.load(Relaxed) {
            NEVER => {
                let idle = self.at(self.idle_since.load(Relaxed));
                (idle + limits.idle_timeout, Overdue::Idle)
            }
            since => (self.at(since) + limits.header_timeout, Overdue::Header),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
    }

    /// Bytes of HTTP/1.1 came.
    pub(super) fn received(&self) {
        if self.header_since.load(Relaxed) == NEVER && self.in_flight.load(Relaxed) == 0 {
            self.header_since.store(ms_since(self.opened), Relaxed);
        }
    }
}

impl Reader {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            waiting_since: AtomicU64::new(NEVER),
        })
    }

    /// A part of the response was handed over and has to be taken.
    pub(super) fn handed(&self) {
        self.waiting_since.store(ms_since(self.created), Relaxed);
    }

    /// The next part is asked for, or the response is gone.
    pub(super) fn took(&self) {
        self.waiting_since.store(NEVER, Relaxed);
    }

    /// Returns once the response has waited for `patience`.
    pub(super) async fn stalled(&self, patience: Duration) {
        loop {
            let since = self.waiting_since().unwrap_or_else(Instant::now);
            if since.elapsed() >= patience {
                return;
            }
            sleep_until(since + patience).await;
        }
    }

    fn waiting_since(&self) -> Option<Instant> {
        match self.waiting_since.load(Relaxed) {
            NEVER => None,
            ms => Some(self.created + Duration::from_millis(ms)),
        }
    }
}

impl InFlight {
    /// Whether it may be served, or is one more than the process takes at once.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Whether its answer has to be the last of the connection, where the version has no better way
    /// to say so.
    pub(super) fn is_last(&self) -> bool {
        self.activity.stopping.load(Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let activity = &self.activity;
        let now = ms_since(activity.opened);
        activity.idle_since.store(now, Relaxed);
        activity.in_flight.fetch_sub(1, Relaxed);
        if self.admitted {
            activity.load.leave();
        }
    }
}

fn ms_since(start: Instant) -> u64 {
    let ms = start.elapsed().as_millis();
    ms.try_into().unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            ..Limits::new(1)
        }
    }

    async fn overdue_after(activity: &Activity) -> (Overdue, u64) {
        let start = Instant::now();
        let what = activity.overdue(&limits()).await;
        (what, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_header_is_due_from_the_start() {
        let activity = Activity::new(&Load::new(9));
        assert_eq!(overdue_after(&activity).await, (Overdue::Header, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_longer_than_a_header_may_take() {
        let activity = Activity::new(&Load::new(9));
        drop(activity.begin());
        assert_eq!(overdue_after(&activity).await, (Overdue::Idle, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_begun_late_has_its_own_deadline() {
        let activity = Activity::new(&Load::new(9));
        drop(activity.begin());
        let watched = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { overdue_after(&activity).await }
        });
        sleep(Duration::from_secs(42)).await;
        activity.received();
        assert_eq!(watched.await.unwrap(), (Overdue::Header, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_is_never_overdue() {
        let activity = Activity::new(&Load::new(9));
        let request = activity.begin();
        let limits = limits();
        let overdue = activity.overdue(&limits);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), overdue)
                .await
                .is_err()
        );
        drop(request);
        assert_eq!(overdue_after(&activity).await.0, Overdue::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_a_request_and_then_a_moment() {
        let activity = Activity::new(&Load::new(9));
        let start = Instant::now();
        let request = activity.begin();
        let stopping = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move {
                activity.without_request_for(Duration::from_secs(1)).await;
                start.elapsed().as_millis()
            }
        });
        sleep(Duration::from_millis(5500)).await;
        drop(request);
        assert!((6500..7000).contains(&stopping.await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_begun_after_a_long_request_has_its_own_deadline() {
        let activity = Activity::new(&Load::new(9));
        let request = activity.begin();
        let watched = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { overdue_after(&activity).await }
        });
        sleep(Duration::from_secs(42)).await;
        drop(request);
        activity.received();
        assert_eq!(watched.await.unwrap(), (Overdue::Header, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn p140_a_response_waits_for_its_reader_only_so_long() {
        let activity = Activity::new(&Load::new(9));
        let _request = activity.begin();
        activity.reader.handed();
        assert_eq!(overdue_after(&activity).await, (Overdue::Reader, 30));

        let reader = Reader::new();
        let stalled = tokio::spawn({
            let reader = Arc::clone(&reader);
            async move { reader.stalled(Duration::from_secs(30)).await }
        });
        for _ in 0..10 {
            reader.handed();
            sleep(Duration::from_secs(29)).await;
            reader.took();
            assert!(!stalled.is_finished(), "it was taken in time");
        }
        sleep(Duration::from_secs(3600)).await;
        assert!(!stalled.is_finished(), "it waits for its source");
        reader.handed();
        sleep(Duration::from_secs(61)).await;
        assert!(stalled.is_finished());
    }
}
