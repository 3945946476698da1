//! A request in flight: from its head to the last byte of its answer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use common::lock::lock;
use futures_util::task::AtomicWaker;
use http::StatusCode;

use super::{activity::Activity, received::Unread};
use crate::shares::{Eviction, Held};

/// One request in flight, shared by its body, its answer and its connection.
#[derive(Debug)]
pub(super) struct Flight {
    activity: Arc<Activity>,
    eviction: Arc<Eviction>,
    standing: Mutex<Standing>,
    is_admitted: bool,
    has_ended: AtomicBool,
    /// The status that a broken request body is answered with; zero while there is none.
    fault: AtomicU16,
    /// The handler has asked for the body.
    wants_body: AtomicBool,
    /// Bytes of the body that are to come, while its handler has it; [`UNKNOWN`] without a length.
    body_left: AtomicU64,
    rest: Mutex<Rest>,
    /// Wakes the stream's task to send `100 (Continue)`.
    continues: AtomicWaker,
}

/// Stands for the length of a body that has none.
pub(super) const UNKNOWN: u64 = u64::MAX;

/// The rest of a request's body that its handler has not read.
#[derive(Debug)]
enum Rest {
    /// The handler has it still.
    Awaited,
    Left(Unread),
    /// The answer is being sent.
    Over,
}

/// Where a request is counted, and whom it waits for.
#[derive(Debug)]
struct Standing {
    held: Option<Held>,
    is_over: bool,
    waits_for_body: bool,
    waits_for_reader: bool,
}

impl Flight {
    /// A request's head is complete: counts it, if there is room.
    pub(super) fn begin(activity: &Arc<Activity>) -> Arc<Self> {
        let eviction = Arc::default();
        let held = activity.limit.begin(&eviction);
        activity.begins();
        Arc::new(Self {
            activity: Arc::clone(activity),
            eviction,
            is_admitted: held.is_some(),
            standing: Mutex::new(Standing {
                is_over: held.is_none(),
                held,
                waits_for_body: false,
                waits_for_reader: false,
            }),
            has_ended: AtomicBool::new(false),
            fault: AtomicU16::new(0),
            wants_body: AtomicBool::new(false),
            body_left: AtomicU64::new(0),
            rest: Mutex::new(Rest::Awaited),
            continues: AtomicWaker::new(),
        })
    }

    /// Returns what its connection is doing.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Returns whether there was room for it.
    pub(super) fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// Returns whether its answer has to be the last of its connection, where the version has no
    /// better way to say so.
    pub(super) fn is_last(&self) -> bool {
        self.activity.is_stopping()
    }

    /// Notes whether the request waits for its caller to send more of the body.
    pub(super) fn waits_for_body(&self, waits: bool) {
        self.change(|standing| &mut standing.waits_for_body, waits);
    }

    /// Notes whether the request waits for its caller to read more of the answer.
    pub(super) fn waits_for_reader(&self, waits: bool) {
        self.change(|standing| &mut standing.waits_for_reader, waits);
    }

    /// Ends the request: its answer has left. Its body may still be read.
    pub(super) fn end(&self) {
        let mut standing = self.lock();
        standing.is_over = true;
        standing.held = None;
        drop(standing);
        if !self.has_ended.swap(true, Relaxed) {
            self.activity.ends();
        }
    }

    /// Returns what tells the request that it has to make room for another.
    pub(super) fn eviction(&self) -> &Arc<Eviction> {
        &self.eviction
    }

    /// Returns once the request has to make room for another.
    pub(super) async fn evicted(&self) {
        self.eviction.evicted().await;
        self.activity.limit.evicted();
    }

    /// Polls [`Self::evicted`].
    pub(super) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        let evicted = self.eviction.poll_evicted(cx);
        if evicted.is_ready() {
            self.activity.limit.evicted();
        }
        evicted
    }

    /// Sets the status that a broken request body is answered with, whatever its handler makes of
    /// it.
    pub(super) fn set_fault(&self, status: StatusCode) {
        self.fault.store(status.as_u16(), Relaxed);
    }

    /// Returns the status that a broken request body is answered with.
    pub(super) fn fault(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.fault.load(Relaxed)).ok()
    }

    /// Notes that the handler asks for the body.
    pub(super) fn asks_for_body(&self) {
        if !self.wants_body.swap(true, Relaxed) {
            self.continues.wake();
        }
    }

    /// Returns whether the handler has asked for the body.
    pub(super) fn wants_body(&self) -> bool {
        self.wants_body.load(Relaxed)
    }

    /// Polls whether the handler asks for the body.
    pub(super) fn poll_wants_body(&self, cx: &Context<'_>) -> Poll<()> {
        self.continues.register(cx.waker());
        match self.wants_body() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Notes how many bytes of the body are to come, or [`UNKNOWN`].
    pub(super) fn set_body_left(&self, left: u64) {
        self.body_left.store(left, Relaxed);
    }

    /// Returns how many bytes of the body are to come, while its handler has it.
    pub(super) fn body_left(&self) -> u64 {
        self.body_left.load(Relaxed)
    }

    /// Leaves the rest of a body to whoever sends the answer; gives it back if that has been sent.
    pub(super) fn leave(&self, rest: Unread) -> Option<Unread> {
        let mut place = self.rest();
        match *place {
            Rest::Awaited => {
                *place = Rest::Left(rest);
                None
            }
            _ => Some(rest),
        }
    }

    /// Takes the rest of the body that the handler left. From now on none is taken.
    pub(super) fn take_rest(&self) -> Option<Unread> {
        match std::mem::replace(&mut *self.rest(), Rest::Over) {
            Rest::Left(rest) => Some(rest),
            _ => None,
        }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        lock(&self.rest)
    }

    fn change(&self, what: impl FnOnce(&mut Standing) -> &mut bool, waits: bool) {
        let mut standing = self.lock();
        let before = standing.waits();
        *what(&mut standing) = waits;
        let after = standing.waits();
        if before == after || standing.is_over {
            return;
        }
        // Left before the other is entered, so that a request never meets itself there.
        standing.held = None;
        let limit = &self.activity.limit;
        standing.held = match after {
            true => limit.wait(&self.eviction),
            false => Some(limit.go_on(&self.eviction)),
        };
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }
}

impl Standing {
    fn waits(&self) -> bool {
        self.waits_for_body || self.waits_for_reader
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.end();
    }
}
