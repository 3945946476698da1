//! A request in flight: from its head to the last byte of its answer.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use common::{label::Label, lock::lock, reason::Reason};
use futures_util::task::AtomicWaker;
use http::{Request, StatusCode};
use tokio::time::{Instant, Sleep};

use super::{activity::Activity, permit::InFlightPermit, unread::Unread};
use crate::{
    access::{Access, Noted},
    peer::Peer,
    shares::Eviction,
};

/// A request in flight, shared by its body, its answer and its connection.
#[derive(Debug)]
pub(super) struct RequestInFlight {
    activity: Arc<Activity>,
    permit: Arc<InFlightPermit>,
    /// The time when the head was complete.
    begun: Instant,
    /// Set when the head of the answer is known.
    is_answered: AtomicBool,
    has_ended: AtomicBool,
    /// The entry in the access log and the span, if there is one.
    access: OnceLock<Access>,
    /// One more than the index of the reason why the request body is broken; zero while there is none.
    fault: AtomicU16,
    /// Set when the handler reads from the body.
    wants_body: AtomicBool,
    /// The bytes of the body that are still to come while its handler has it, or [`UNKNOWN`].
    body_left: AtomicU64,
    /// The time when a stream last moved in either direction, in ms since the connection was opened.
    moved: AtomicU64,
    rest: Mutex<Rest>,
    /// Wakes the stream's task to send `100 (Continue)`.
    continues: AtomicWaker,
}

/// The bytes that are left of a body without a length.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// The rest of a request's body that its handler has not read.
#[derive(Debug)]
enum Rest {
    /// The handler still has the body.
    Awaited,
    /// The handler has dropped the body.
    Left(Unread),
    /// The answer is being sent, so that the rest is no longer needed.
    Over,
}

impl RequestInFlight {
    /// Counts a request whose head is complete. It is admitted if the in-flight limit has room.
    pub(super) fn begin(activity: &Arc<Activity>) -> Arc<Self> {
        let permit = InFlightPermit::new(&activity.limit);
        activity.begins();
        Arc::new(Self {
            activity: Arc::clone(activity),
            permit,
            begun: Instant::now(),
            is_answered: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            access: OnceLock::new(),
            fault: AtomicU16::new(0),
            wants_body: AtomicBool::new(false),
            body_left: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            rest: Mutex::new(Rest::Awaited),
            continues: AtomicWaker::new(),
        })
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Returns whether the in-flight limit had room for the request.
    pub(super) fn is_admitted(&self) -> bool {
        self.permit.is_admitted()
    }

    /// Returns whether the answer has to announce the end of an HTTP/1.1 connection.
    pub(super) fn is_last(&self) -> bool {
        self.activity.is_draining()
    }

    /// Notes that the answer is streamed from now on, so that the connection's writes tell whether it
    /// waits for its reader.
    pub(super) fn streams_answer(&self) {
        self.activity.answers(&self.permit);
    }

    /// Notes whether the request waits for its caller to send more of the body.
    pub(super) fn waits_for_body(&self, waits: bool) {
        self.permit.waits_for_body(&self.activity.limit, waits);
    }

    /// Notes whether the request waits for its caller to read more of the answer.
    pub(super) fn waits_for_reader(&self, waits: bool) {
        self.permit.waits_for_reader(&self.activity.limit, waits);
    }

    /// Returns the new entry of a request with this head, if it may be logged or recorded.
    pub(super) fn log_access<B>(
        &self,
        request: &Request<B>,
        peer: &Peer,
        noted: &Noted,
    ) -> Option<Access> {
        let access = Access::of(request, peer, self.begun, noted)?;
        Some(self.access.get_or_init(|| access).clone())
    }

    /// Notes how much of the request's body has come.
    pub(super) fn received(&self, bytes: u64) {
        if let Some(access) = self.access.get() {
            access.received(bytes);
        }
    }

    /// Notes that a part of the answer's body is sent.
    pub(super) fn sent(&self, bytes: usize) {
        if let Some(access) = self.access.get() {
            access.sent(bytes);
        }
    }

    /// Notes that the head of the answer is known at the time `now`.
    pub(super) fn answers(&self, status: StatusCode, reason: Option<Reason>, now: Instant) {
        self.is_answered.store(true, Relaxed);
        let after = now - self.begun;
        self.activity.counts.answer(status, reason, after);
        if let Some(access) = self.access.get() {
            access.answered(status, reason);
        }
    }

    /// Ends the request, because its answer has left. Its body may still be read.
    pub(super) fn end(&self) {
        self.permit.release();
        if !self.has_ended.swap(true, Relaxed) {
            let now = Instant::now();
            self.activity.ends(now);
            let is_answered = self.is_answered.load(Relaxed);
            let took = now - self.begun;
            self.activity.counts.end(is_answered, took);
            if let Some(access) = self.access.get() {
                access.end(took);
            }
        }
    }

    /// Returns the eviction that tells the request to make room for another.
    pub(super) fn eviction(&self) -> &Arc<Eviction> {
        self.permit.eviction()
    }

    /// Waits until the request has to make room for another.
    pub(super) async fn evicted(&self) {
        self.permit.evicted().await;
    }

    pub(super) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        self.permit.poll_evicted(cx)
    }

    /// Sets the reason for which a broken request body is answered, whatever the handler answers.
    pub(super) fn set_fault(&self, reason: Reason) {
        let index = u16::try_from(reason.index()).unwrap_or(u16::MAX - 1);
        self.fault.store(index + 1, Relaxed);
    }

    /// Returns the reason for which a broken request body is answered.
    pub(super) fn fault(&self) -> Option<Reason> {
        let index = self.fault.load(Relaxed).checked_sub(1)?;
        Reason::ALL.get(usize::from(index)).copied()
    }

    /// Notes that the handler reads from the body.
    pub(super) fn asks_for_body(&self) {
        if !self.wants_body.swap(true, Relaxed) {
            self.continues.wake();
        }
    }

    /// Returns whether the handler has read from the body.
    pub(super) fn wants_body(&self) -> bool {
        self.wants_body.load(Relaxed)
    }

    pub(super) fn poll_wants_body(&self, cx: &Context<'_>) -> Poll<()> {
        self.continues.register(cx.waker());
        if self.wants_body() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Sets the number of bytes of the body that are still to come, or [`UNKNOWN`].
    pub(super) fn set_body_left(&self, left: u64) {
        self.body_left.store(left, Relaxed);
    }

    /// Returns the number of bytes of the body that are still to come while its handler has it.
    pub(super) fn body_left(&self) -> u64 {
        self.body_left.load(Relaxed)
    }

    /// Notes that a stream moves now, in either direction.
    pub(super) fn moves(&self) {
        self.moved.store(self.activity.now(), Relaxed);
    }

    /// Returns the time at which the stream has been silent for `timeout`, unless it moves before.
    pub(super) fn silent_at(&self, timeout: Duration) -> Instant {
        self.activity.at(self.moved.load(Relaxed)) + timeout
    }

    /// Polls whether the stream has been silent for `timeout`. `timer` is one that began with the silence.
    pub(super) fn poll_silent(
        &self,
        timer: &mut Pin<Box<Sleep>>,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            ready!(timer.as_mut().poll(cx));
            let until = self.silent_at(timeout);
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }

    /// Leaves the rest of the body to the sender of the answer. Returns it if the answer is being sent
    /// already.
    pub(super) fn leave(&self, rest: Unread) -> Option<Unread> {
        let mut current = self.rest();
        match *current {
            Rest::Awaited => {
                *current = Rest::Left(rest);
                None
            }
            _ => Some(rest),
        }
    }

    /// Takes the rest of the body that the handler left. A rest that is left later is returned to the
    /// handler.
    pub(super) fn take_rest(&self) -> Option<Unread> {
        match std::mem::replace(&mut *self.rest(), Rest::Over) {
            Rest::Left(rest) => Some(rest),
            _ => None,
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        lock(&self.rest)
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.end();
    }
}
