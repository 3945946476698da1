//! One stream of the Workload API, which is opened again whenever it ends.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    address::Address,
    connection::{AgentHook, Connection, Message, Messages, Stream},
    error::Reason,
};
use crate::backoff::Backoff;

/// The pauses between attempts, before jitter. They are short because an agent restarts within seconds
/// and may return with other keys.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// The time for the first message, after which the Workload API counts as lost. An agent answers within
/// milliseconds.
const PROMPT: Duration = Duration::from_secs(1);

/// The time for the first message, after which the stream is opened on a new connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// The life from which a stream does not count as short. An agent that ends its streams at once is
/// asked less often.
const SETTLED: Duration = Duration::from_secs(1);

/// A report of a stream.
#[derive(Debug)]
pub(super) enum Event {
    /// A message came. The stream is up.
    Message(Message),
    /// The stream cannot be used at present. It is opened again.
    Lost(Reason),
}

/// The agent that a stream is opened at.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) address: Address,
    pub(super) hook: Option<AgentHook>,
}

/// Follows one stream.
pub(super) struct Follower {
    pub(super) agent: Agent,
    pub(super) stream: Stream,
    pub(super) events: mpsc::Sender<(Stream, Event)>,
}

/// An open stream, and the connection that it needs.
struct Open {
    messages: Messages,
    _connection: Connection,
}

/// The error that the receiver of the events is gone, so that nobody needs the stream.
struct Unwanted;

impl Follower {
    /// Follows the stream until nobody receives its events.
    ///
    /// A stream that ends is opened again at once. It is reported as lost only if that fails, so that an
    /// agent that merely ends its streams causes no alarm. A withdrawal is reported at once.
    pub(super) async fn run(self) {
        let mut pauses = Pauses::default();
        let mut ended = None;
        loop {
            let began = Instant::now();
            let (reason, is_served) = match self.open(&mut ended).await {
                Ok(Ok((open, first))) => match self.pass_on(open, first).await {
                    Ok(reason) => (reason, true),
                    Err(Unwanted) => return,
                },
                Ok(Err(reason)) => (reason, false),
                Err(Unwanted) => return,
            };
            if is_served && !reason.is_withdrawal() {
                ended = Some(reason);
            } else if self.send(Event::Lost(reason)).await.is_err() {
                return;
            }
            sleep(pauses.next(is_served, began.elapsed())).await;
        }
    }

    /// Opens the stream and waits for its first message. If that is late, reports the stream as lost. The
    /// reason is the one for which its predecessor `ended`, if there was one.
    async fn open(
        &self,
        ended: &mut Option<Reason>,
    ) -> Result<Result<(Open, Message), Reason>, Unwanted> {
        let opening = open(&self.agent, self.stream);
        tokio::pin!(opening);
        if let Ok(opened) = timeout(PROMPT, &mut opening).await {
            *ended = None;
            return Ok(opened);
        }
        let reason = ended.take().unwrap_or(Reason::NoAnswer);
        self.send(Event::Lost(reason)).await?;
        let late = timeout(PATIENCE, opening).await;
        Ok(late.unwrap_or(Err(Reason::NoAnswer)))
    }

    /// Passes on all messages, and returns the reason why there are no more.
    async fn pass_on(&self, mut open: Open, first: Message) -> Result<Reason, Unwanted> {
        let mut message = first;
        loop {
            self.send(Event::Message(message)).await?;
            message = match open.messages.next().await {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(Reason::Ended),
                Err(status) => return Ok(Reason::of_stream(status)),
            };
        }
    }

    async fn send(&self, event: Event) -> Result<(), Unwanted> {
        let sent = self.events.send((self.stream, event)).await;
        sent.map_err(|_| Unwanted)
    }
}

/// The pauses between streams.
#[derive(Debug, Default)]
struct Pauses {
    /// The attempts in a row that failed.
    failures: u32,
    /// The streams in a row that delivered something and ended soon.
    short: u32,
}

impl Pauses {
    /// Returns the next pause, after a stream of this length. Jitter keeps processes that lost the same
    /// agent from returning in the same moment.
    fn next(&mut self, is_served: bool, lasted: Duration) -> Duration {
        if !is_served {
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
            self.short = if lasted < SETTLED {
                self.short.saturating_add(1)
            } else {
                0
            };
        }
        let jitter = 1.0 + fastrand::f64() / 10.0;
        BACKOFF.pause(self.failures.max(self.short)).mul_f64(jitter)
    }
}

async fn open(agent: &Agent, stream: Stream) -> Result<(Open, Message), Reason> {
    let mut connection = Connection::open(&agent.address, agent.hook).await?;
    let messages = connection.subscribe(stream).await;
    let mut messages = messages.map_err(Reason::of_stream)?;
    let first = messages.next().await.map_err(Reason::of_stream)?;
    let open = Open {
        messages,
        _connection: connection,
    };
    Ok((open, first.ok_or(Reason::Ended)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_and_with_short_streams_only_d027_w173() {
        let (short, long) = (Duration::ZERO, SETTLED);
        let mut pauses = Pauses::default();
        for (is_served, lasted, milliseconds) in [
            (false, short, 50),
            (false, short, 100),
            (false, short, 200),
            (true, long, 50),
            (true, short, 50),
            (true, short, 100),
            (true, short, 200),
            (false, short, 200),
            (true, long, 50),
            (false, short, 50),
        ] {
            let pause = pauses.next(is_served, lasted).as_millis();
            let range = milliseconds..=milliseconds + milliseconds / 10;
            assert!(range.contains(&pause), "{pause}, expected {range:?}");
        }
        for _ in 0..100 {
            assert!(pauses.next(false, short) <= Duration::from_millis(1100));
        }
    }
}
