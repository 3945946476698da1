//! The activity of a connection, and the deadlines that follow from it.
//!
//! hyper has a deadline for headers too. It also runs while a kept-alive connection is idle, so that it
//! cannot be shorter than the idle timeout. Here the two are separate.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use common::lock::lock;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::permit::InFlightPermit;
use crate::{counts::Counts, in_flight::SourceLimit, limits::Limits};

/// The activity of a connection, shared by its I/O, its requests and its deadlines.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// The time when the connection has reached its age.
    old: Option<Instant>,
    /// The number of requests in flight.
    in_flight: AtomicUsize,
    /// The time when the connection became idle, in ms since `opened`.
    idle_since: AtomicU64,
    /// The time of a request's first byte, in ms since `opened`, or [`NEVER`]. It is set for each request
    /// over HTTP/1.1, and for the first one over HTTP/2.
    header_since: AtomicU64,
    /// The time since when output waits for the peer to read, in ms since `opened`, or [`NEVER`].
    unread_since: AtomicU64,
    /// The number of request bodies that have not come as a whole.
    bodies: AtomicUsize,
    /// The number of these that are large.
    large_bodies: AtomicUsize,
    /// The permit of the request whose answer is streamed. Only HTTP/1.1 has one such request at a time.
    answering: Mutex<Weak<InFlightPermit>>,
    /// Set when a stop was requested, so that the connection drains.
    stopping: AtomicBool,
    /// The source's part in the in-flight limit.
    pub(super) limit: SourceLimit,
    pub(super) counts: Arc<Counts>,
}

/// The deadline that a connection has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overdue {
    #[error("idle")]
    Idle,
    #[error("request header not complete in time")]
    Header,
    #[error("response not read in time")]
    Reader,
}

const NEVER: u64 = u64::MAX;

impl Activity {
    /// Returns the activity of a new connection. The deadline of the first header starts now.
    pub(super) fn new(
        limit: SourceLimit,
        max_age: Option<Duration>,
        counts: Arc<Counts>,
    ) -> Arc<Self> {
        let opened = Instant::now();
        Arc::new(Self {
            opened,
            old: max_age.map(|age| opened + age.mul_f64(1.0 - fastrand::f64() / 10.0)),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            header_since: AtomicU64::new(0),
            unread_since: AtomicU64::new(NEVER),
            bodies: AtomicUsize::new(0),
            large_bodies: AtomicUsize::new(0),
            answering: Mutex::default(),
            stopping: AtomicBool::new(false),
            limit,
            counts,
        })
    }

    /// Notes that a request's header is complete.
    pub(super) fn begins(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.header_since.store(NEVER, Relaxed);
    }

    /// Notes that a request has ended at the time `now`.
    pub(super) fn ends(&self, now: Instant) {
        self.idle_since.store(self.since_opened(now), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Returns whether a request is in flight.
    pub(super) fn has_request(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// Makes the next answer the last one of the connection.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Returns whether the next answer is the last one of the connection.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Notes that bytes came over HTTP/1.1.
    pub(super) fn received(&self) {
        if self.header_since.load(Relaxed) == NEVER && !self.has_request() {
            self.header_since.store(self.now(), Relaxed);
        }
    }

    /// Notes that output waits for the peer to read.
    pub(super) fn waits_for_reader(&self) {
        if !self.is_unread() {
            self.unread_since.store(self.now(), Relaxed);
            self.note_answering(true);
        }
    }

    /// Notes that the peer has read. Further output may wait for it again.
    pub(super) fn was_read(&self) {
        if self.is_unread() {
            self.unread_since.store(NEVER, Relaxed);
            self.note_answering(false);
        }
    }

    /// Notes that the answer of the request with this permit is streamed from now on.
    pub(super) fn answers(&self, permit: &Arc<InFlightPermit>) {
        *self.answering() = Arc::downgrade(permit);
    }

    /// Polls whether the request whose answer is streamed has to make room for another.
    pub(super) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        let permit = self.answering().upgrade();
        permit.map_or(Poll::Pending, |permit| permit.poll_evicted(cx))
    }

    /// Notes that a request's body begins to come.
    pub(super) fn body_begins(&self) {
        self.bodies.fetch_add(1, Relaxed);
    }

    /// Notes that a request's body is large.
    pub(super) fn body_is_large(&self) {
        self.large_bodies.fetch_add(1, Relaxed);
    }

    /// Notes that no more of a request's body is read.
    pub(super) fn body_ends(&self, is_large: bool) {
        self.bodies.fetch_sub(1, Relaxed);
        self.large_bodies.fetch_sub(is_large.into(), Relaxed);
    }

    /// Returns whether a large request body is being read.
    pub(super) fn has_large_body(&self) -> bool {
        self.large_bodies.load(Relaxed) > 0
    }

    /// Returns whether an HTTP/1.1 connection may read. It reads no further request while an answer is
    /// unread. Otherwise a caller that never reads would fill the memory with answers.
    pub(super) fn may_read(&self) -> bool {
        !self.is_unread() || self.has_request() || self.bodies.load(Relaxed) > 0
    }

    fn note_answering(&self, waits: bool) {
        if let Some(permit) = self.answering().upgrade() {
            permit.waits_for_reader(&self.limit, waits);
        }
    }

    fn answering(&self) -> MutexGuard<'_, Weak<InFlightPermit>> {
        lock(&self.answering)
    }

    /// Returns whether output waits for the peer to read.
    pub(super) fn is_unread(&self) -> bool {
        self.unread_since.load(Relaxed) != NEVER
    }

    /// Waits until the connection exceeds a deadline, and returns that deadline.
    pub(super) async fn overdue(&self, limits: &Limits) -> Overdue {
        loop {
            let (deadline, what) = self.deadline(limits);
            let now = Instant::now();
            if now >= deadline {
                return what;
            }
            // Checks again after the shorter timeouts, so that no deadline that starts meanwhile is missed.
            let shorter = limits.header_timeout.min(limits.body_timeout);
            sleep_until(deadline.min(now + shorter)).await;
        }
    }

    /// Waits as [`Self::overdue`] does, or returns `None` when the connection has reached its age.
    pub(super) async fn overdue_or_old(&self, limits: &Limits) -> Option<Overdue> {
        let overdue = self.overdue(limits);
        match self.old {
            Some(old) => timeout_at(old, overdue).await.ok(),
            None => Some(overdue.await),
        }
    }

    /// Waits until all answers have left and no request was in flight for `time`, counted from now.
    pub(super) async fn without_request_for(&self, time: Duration) {
        let from = self.now();
        loop {
            let deadline = match self.has_request() || self.is_unread() {
                true => Instant::now() + time,
                false => self.at(self.idle_since.load(Relaxed).max(from)) + time,
            };
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn deadline(&self, limits: &Limits) -> (Instant, Overdue) {
        match self.unread_since.load(Relaxed) {
            NEVER => {}
            since => return (self.at(since) + limits.body_timeout, Overdue::Reader),
        }
        if self.has_request() {
            return (Instant::now() + limits.body_timeout, Overdue::Reader);
        }
        match self.header_since.load(Relaxed) {
            NEVER => {
                let idle = self.at(self.idle_since.load(Relaxed));
                (idle + limits.idle_timeout, Overdue::Idle)
            }
            since => (self.at(since) + limits.header_timeout, Overdue::Header),
        }
    }

    /// Returns the time that is `ms` after the connection was opened.
    pub(super) fn at(&self, ms: u64) -> Instant {
        self.opened + Duration::from_millis(ms)
    }

    /// Returns the time since the connection was opened, in ms.
    pub(super) fn now(&self) -> u64 {
        self.since_opened(Instant::now())
    }

    fn since_opened(&self, now: Instant) -> u64 {
        let ms = now.duration_since(self.opened).as_millis();
        ms.try_into().unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::in_flight::InFlightLimit;

    fn activity() -> Arc<Activity> {
        Activity::new(
            InFlightLimit::new(9).of("192.0.2.1".parse().unwrap()),
            None,
            Arc::default(),
        )
    }

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

    fn one_request(activity: &Activity) {
        activity.begins();
        activity.ends(Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_header_is_due_from_the_start() {
        assert_eq!(overdue_after(&activity()).await, (Overdue::Header, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_for_the_idle_timeout() {
        let activity = activity();
        one_request(&activity);
        assert_eq!(overdue_after(&activity).await, (Overdue::Idle, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_begins_late_has_its_own_deadline() {
        let activity = activity();
        one_request(&activity);
        let watched = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { overdue_after(&activity).await }
        });
        sleep(Duration::from_secs(42)).await;
        activity.received();
        assert_eq!(watched.await.unwrap(), (Overdue::Header, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_has_no_deadline() {
        let activity = activity();
        activity.begins();
        let limits = limits();
        let overdue = activity.overdue(&limits);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), overdue)
                .await
                .is_err()
        );
        activity.ends(Instant::now());
        assert_eq!(overdue_after(&activity).await.0, Overdue::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_old_within_a_tenth_before_its_age_t005() {
        for in_flight in [true, false] {
            let limit = InFlightLimit::new(9).of("192.0.2.1".parse().unwrap());
            let activity = Activity::new(limit, Some(Duration::from_secs(60)), Arc::default());
            one_request(&activity);
            if in_flight {
                activity.begins();
            }
            let start = Instant::now();
            assert_eq!(activity.overdue_or_old(&limits()).await, None);
            assert!((54..=60).contains(&start.elapsed().as_secs()));
        }
        let limit = InFlightLimit::new(9).of("192.0.2.1".parse().unwrap());
        let activity = Activity::new(limit, Some(Duration::from_secs(100)), Arc::default());
        one_request(&activity);
        let overdue = activity.overdue_or_old(&limits()).await;
        assert_eq!(
            overdue,
            Some(Overdue::Idle),
            "a deadline before the age holds"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_a_request_and_its_reader_and_then_for_the_time() {
        let activity = activity();
        let start = Instant::now();
        activity.begins();
        let stopping = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move {
                activity.without_request_for(Duration::from_secs(1)).await;
                start.elapsed().as_millis()
            }
        });
        sleep(Duration::from_millis(5500)).await;
        activity.waits_for_reader();
        activity.ends(Instant::now());
        sleep(Duration::from_secs(7)).await;
        assert!(!stopping.is_finished(), "the answer has not left");
        activity.was_read();
        assert!((12_500..14_000).contains(&stopping.await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_after_a_long_request_has_its_own_deadline() {
        let activity = activity();
        activity.begins();
        let watched = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { overdue_after(&activity).await }
        });
        sleep(Duration::from_secs(42)).await;
        activity.ends(Instant::now());
        activity.received();
        assert_eq!(watched.await.unwrap(), (Overdue::Header, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn output_waits_for_its_reader_until_the_deadline_p140() {
        for has_request in [true, false] {
            let activity = activity();
            one_request(&activity);
            if has_request {
                activity.begins();
            }
            activity.waits_for_reader();
            assert_eq!(overdue_after(&activity).await, (Overdue::Reader, 30));
            sleep(Duration::from_secs(1)).await;
            activity.was_read();
            activity.waits_for_reader();
            assert_eq!(overdue_after(&activity).await, (Overdue::Reader, 30));
        }
    }
}
