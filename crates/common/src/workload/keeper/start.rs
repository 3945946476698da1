//! The start of a keeper, which waits until every stream has delivered.

use std::time::SystemTime;

use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::{Events, Keeper, missing::Missing};
use crate::workload::{connection::Stream, error::Reason, follow::Event};

impl Keeper {
    /// Waits until every stream has delivered what this process needs.
    ///
    /// # Errors
    /// Fails with the last reason when `deadline` has passed, and at once with a reason that `waiting` does not
    /// wait for.
    pub(in crate::workload) async fn start(
        &mut self,
        events: &mut Events,
        deadline: Instant,
        waiting: impl Fn(&Reason) -> bool,
    ) -> Result<(), Reason> {
        let mut missing = Missing::new(self.links.keys());
        while !missing.is_empty() {
            self.observe(Some(&missing));
            let Ok(Some((stream, event))) = timeout_at(deadline, events.recv()).await else {
                return Err(missing.reason());
            };
            match self.first(stream, event) {
                Ok(()) => missing.found(stream),
                Err(reason) => missing.obstruct(stream, reason, &waiting)?,
            }
            if missing.is_empty() {
                for (stream, reason) in self.incomplete() {
                    missing.obstruct(stream, reason, &waiting)?;
                }
            }
        }
        let now = SystemTime::now();
        self.publish(now);
        self.assessed = now;
        self.observe(None);
        let changes = self.held.summary();
        let spiffe_id = self.held.spiffe_id().map(tracing::field::display);
        info!(spiffe_id, changes, "identity issued");
        self.tell(|| format!("identity issued: {changes}"));
        Ok(())
    }

    /// Applies a report at start-up.
    fn first(&mut self, stream: Stream, event: Event) -> Result<(), Reason> {
        let applied = match event {
            Event::Message(message) => self.apply(stream, message, SystemTime::now()),
            Event::Lost(reason) => Err(reason),
        };
        let applied = applied.inspect_err(|reason| {
            if stream == Stream::X509Svids && reason.is_withdrawal() {
                self.held.withdraw();
            }
        })?;
        applied.log_faults(self.held.grace());
        Ok(())
    }

    /// Returns the streams that have delivered, but not what the process needs. This need may depend on
    /// another stream.
    fn incomplete(&self) -> Vec<(Stream, Reason)> {
        let streams = self.links.keys();
        let faults = streams.filter_map(|one| Some((*one, self.held.is_complete(*one).err()?)));
        faults.collect()
    }
}
