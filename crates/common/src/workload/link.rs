//! The state of one stream of the Workload API.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    connection::Stream,
    error::Reason,
    monitor::{StreamState, StreamStatus},
};

/// The state of a stream. The messages themselves are kept elsewhere.
#[derive(Debug, Default)]
pub(super) struct Link {
    flow: Flow,
    /// The message of a withdrawal, until the next usable message.
    pub(super) withdrawn: Option<Arc<str>>,
    /// The reason why the last message cannot be used, as a whole or in its X.509-SVID.
    refused: Option<Refused>,
}

/// The state of a stream's messages, and the time of its last change.
#[derive(Debug, Default)]
enum Flow {
    /// No message has come.
    #[default]
    Begun,
    /// Messages come.
    Up(SystemTime),
    /// No message comes, for this reason.
    Lost(SystemTime, String),
}

/// A message that cannot be used.
#[derive(Debug)]
struct Refused {
    text: String,
    /// True if the bundles of the message are not used either.
    is_whole: bool,
    /// The time of the first such message in a row.
    since: SystemTime,
}

impl Link {
    /// Takes note of a message that can be used, and that may have come before the stream was lost.
    pub(super) fn accept(&mut self) {
        (self.withdrawn, self.refused) = (None, None);
    }

    /// Takes note of a message that came, whatever it has.
    pub(super) fn deliver(&mut self, now: SystemTime) {
        if !matches!(self.flow, Flow::Up(_)) {
            self.flow = Flow::Up(now);
        }
    }

    /// Takes note of a loss.
    pub(super) fn lose(&mut self, reason: &Reason, now: SystemTime) {
        let since = self.lost_since().unwrap_or(now);
        self.flow = Flow::Lost(since, reason.to_string());
    }

    /// Returns the time since which the stream delivers nothing, if it was lost.
    fn lost_since(&self) -> Option<SystemTime> {
        match self.flow {
            Flow::Lost(since, _) => Some(since),
            Flow::Begun | Flow::Up(_) => None,
        }
    }

    /// Returns whether the stream was lost, and has delivered nothing since.
    pub(super) fn is_lost(&self) -> bool {
        self.lost_since().is_some()
    }

    /// Takes note of a message that cannot be used. Returns whether the reason is new.
    pub(super) fn refuse(&mut self, reason: &Reason, now: SystemTime) -> bool {
        let text = reason.to_string();
        let known = self.refused.take();
        let is_new = known.as_ref().is_none_or(|known| known.text != text);
        self.refused = Some(Refused {
            text,
            is_whole: !matches!(reason, Reason::UnusableSvid(_)),
            since: known.map_or(now, |known| known.since),
        });
        is_new
    }

    /// Takes note of a withdrawal.
    pub(super) fn withdraw(&mut self, reason: &Reason) {
        self.withdrawn = Some(reason.fault().into());
    }

    /// Returns the state for an observer. `waiting` is set until the stream has delivered. The wait began at
    /// `begun`.
    pub(super) fn status(
        &self,
        stream: Stream,
        waiting: Option<StreamState>,
        begun: SystemTime,
    ) -> StreamStatus {
        let (state, since) = match (waiting, &self.flow) {
            (Some(waiting), _) => (waiting, begun),
            (None, Flow::Lost(since, reason)) => (StreamState::Down(reason.clone()), *since),
            (None, Flow::Up(since)) => (StreamState::Up, *since),
            (None, Flow::Begun) => (StreamState::Waiting(None), begun),
        };
        StreamStatus {
            stream,
            state,
            since,
        }
    }

    /// Returns the time since which messages cannot be used.
    pub(super) fn refused_since(&self) -> Option<SystemTime> {
        self.refused.as_ref().map(|refused| refused.since)
    }

    /// Returns the time until which the bundles are trusted, if that is limited by more than the
    /// X.509-SVID. `is_alone` tells whether other streams work, or there is no X.509-SVID.
    pub(super) fn trusted_until(&self, grace: Duration, is_alone: bool) -> Option<SystemTime> {
        let refused = self.refused.as_ref().filter(|refused| refused.is_whole);
        let refused = refused.map(|refused| refused.since);
        let lost = self.lost_since().filter(|_| is_alone);
        let since = [refused, lost].into_iter().flatten().min()?;
        Some(since + grace)
    }
}
