//! The activity of a connection.
//!
//! - `deadlines`: the deadlines that follow from it

mod deadlines;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use common::lock::lock;
use tokio::time::Instant;

pub(super) use self::deadlines::Closing;
pub(crate) use self::deadlines::Overdue;
use super::permit::InFlightPermit;
use crate::{counts::Counts, in_flight::SourceLimit};

/// The activity of a connection, shared by its I/O, its requests and its deadlines.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    /// The time when the connection reaches its age.
    old: Option<Instant>,
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
    /// Set when the connection drains over HTTP/1.1, so that its next answer is the last one.
    draining: AtomicBool,
    /// The source's part in the in-flight limit.
    pub(super) limit: SourceLimit,
    pub(super) counts: Arc<Counts>,
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
            draining: AtomicBool::new(false),
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

    pub(super) fn has_request(&self) -> bool {
        self.in_flight.load(Relaxed) > 0
    }

    /// Makes the next answer the last one of the connection.
    pub(super) fn start_drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Returns whether the next answer is the last one of the connection.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
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
