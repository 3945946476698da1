//! The streams that have not delivered at start-up.

use std::collections::BTreeMap;

use crate::workload::{connection::Stream, error::Reason, monitor::StreamState};

/// The streams that have not delivered at start-up.
pub(super) struct Missing {
    /// Each has the last reason, if there is one.
    streams: BTreeMap<Stream, Option<Reason>>,
    /// The reason that was logged last.
    logged: String,
}

impl Missing {
    pub(super) fn new<'a>(streams: impl Iterator<Item = &'a Stream>) -> Self {
        Self {
            streams: streams.map(|stream| (*stream, None)).collect(),
            logged: String::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Takes note of a stream that has delivered.
    pub(super) fn found(&mut self, stream: Stream) {
        self.streams.remove(&stream);
    }

    /// Takes note of the reason why a stream has not delivered, and tells it to `waiting` if it differs from
    /// the last one.
    ///
    /// # Errors
    /// Fails with a reason that `waiting` does not wait for.
    pub(super) fn obstruct(
        &mut self,
        stream: Stream,
        reason: Reason,
        waiting: impl Fn(&Reason) -> bool,
    ) -> Result<(), Reason> {
        let text = reason.to_string();
        if self.logged != text {
            if !waiting(&reason) {
                return Err(reason);
            }
            self.logged = text;
        }
        self.streams.insert(stream, Some(reason));
        Ok(())
    }

    /// Returns the state of a stream that has not delivered.
    pub(super) fn waiting(&self, stream: Stream) -> Option<StreamState> {
        let reason = self.streams.get(&stream)?.as_ref();
        Some(StreamState::Waiting(reason.map(ToString::to_string)))
    }

    /// Returns the reason of the first stream that has one.
    pub(super) fn reason(self) -> Reason {
        let reason = self.streams.into_values().flatten().next();
        reason.unwrap_or(Reason::NoAnswer)
    }
}
