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

/// The state of a stream. What it has delivered is kept elsewhere.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// The time since which the stream delivers nothing, if it does not.
    pub(super) lost: Option<SystemTime>,
    /// The reason why it delivers nothing.
    loss: Option<String>,
    /// The time since which the stream is up, if it is.
    up: Option<SystemTime>,
    /// The message of a withdrawal, until the next usable message.
    pub(super) withdrawn: Option<Arc<str>>,
    /// The reason why the last message cannot be used, as a whole or in its X.509-SVID.
    refused: Option<Refused>,
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
        (self.lost, self.loss) = (None, None);
        self.up.get_or_insert(now);
    }

    /// Takes note of a loss.
    pub(super) fn lose(&mut self, reason: &Reason, now: SystemTime) {
        self.up = None;
        self.lost.get_or_insert(now);
        self.loss = Some(reason.to_string());
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

    /// Returns the state for an observer. `waiting` is set until the stream has delivered, which is waited for
    /// since `begun`.
    pub(super) fn status(
        &self,
        stream: Stream,
        waiting: Option<StreamState>,
        begun: SystemTime,
    ) -> StreamStatus {
        let (state, since) = match (waiting, self.lost) {
            (Some(waiting), _) => (waiting, None),
            (None, Some(lost)) => {
                let reason = self.loss.clone().unwrap_or_default();
                (StreamState::Down(reason), Some(lost))
            }
            (None, None) => (StreamState::Up, self.up),
        };
        StreamStatus {
            stream: stream.name(),
            state,
            since: since.unwrap_or(begun),
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
        let lost = self.lost.filter(|_| is_alone);
        let since = [refused, lost].into_iter().flatten().min()?;
        Some(since + grace)
    }
}
