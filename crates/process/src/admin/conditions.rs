//! The conditions under which a process can do its work, each by its name.
//!
//! Each part of a process adds a source, which is called for each report. Probes, the metrics and the status
//! page have the same conditions.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use common::{lock::lock, sanitize::on_a_line};

/// The longest reason, in characters.
const MAX_REASON: usize = 1000;

/// The conditions of a process. Clones have the same ones.
#[derive(Clone, Default)]
pub struct Conditions(Arc<Mutex<Vec<Source>>>);

type Source = Arc<dyn Fn(SystemTime) -> Vec<Condition> + Send + Sync>;

/// A condition at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The name, which is the same while the process runs.
    pub name: String,
    /// The state.
    pub state: State,
    /// The details of the state, or its cause. It has no control characters of a peer.
    pub reason: String,
    /// The time since which it has this state, if that is known.
    pub since: Option<SystemTime>,
    /// The time until which it is met or degraded, if it ends by itself.
    pub until: Option<SystemTime>,
}

/// The state of a condition, or of a process. A greater state is a graver one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing is wrong.
    Met,
    /// The process does its work, and something is wrong.
    Degraded,
    /// The process can't do its work.
    Lost,
}

/// All conditions at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The time of the report.
    pub now: SystemTime,
    /// The conditions, in the order of their sources.
    pub conditions: Vec<Condition>,
}

impl Conditions {
    /// Adds a source of conditions. It is called on any thread, and must not wait.
    pub fn add(&self, source: impl Fn(SystemTime) -> Vec<Condition> + Send + Sync + 'static) {
        lock(&self.0).push(Arc::new(source));
    }

    /// Returns the present conditions.
    #[must_use]
    pub fn report(&self) -> Report {
        let now = SystemTime::now();
        let sources = lock(&self.0).clone();
        let conditions = sources.iter().flat_map(|source| source(now)).collect();
        Report { now, conditions }
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = lock(&self.0).len();
        f.debug_struct("Conditions")
            .field("sources", &sources)
            .finish()
    }
}

impl Condition {
    /// Returns a condition in a state. Control characters in the reason are escaped, and a long one is cut.
    #[must_use]
    pub fn new(name: impl Into<String>, state: State, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state,
            reason: cut_reason(&reason.into()),
            since: None,
            until: None,
        }
    }

    /// Sets the time since which it has its state.
    #[must_use]
    pub fn since(self, since: SystemTime) -> Self {
        let since = Some(since);
        Self { since, ..self }
    }

    /// Sets the time until which it is met or degraded.
    #[must_use]
    pub fn until(self, until: Option<SystemTime>) -> Self {
        Self { until, ..self }
    }

    /// Returns the time that is left at `now`, if it ends by itself.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let until = self.until.filter(|_| self.state != State::Lost)?;
        Some(until.duration_since(now).unwrap_or_default())
    }
}

/// Returns the beginning of a reason, on one line. Reasons may quote peers.
pub(crate) fn cut_reason(text: &str) -> String {
    let end = text.char_indices().nth(MAX_REASON);
    on_a_line(end.map_or(text, |(end, _)| &text[..end]))
}

impl Report {
    /// Returns the state of the process, which is that of its gravest condition.
    #[must_use]
    pub fn state(&self) -> State {
        let states = self.conditions.iter().map(|one| one.state);
        states.max().unwrap_or(State::Met)
    }

    /// Returns the time for which a degraded process can continue, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let degraded = |one: &&Condition| one.state == State::Degraded;
        let ends = self.conditions.iter().filter(degraded);
        let left = ends.filter_map(|one| one.left(self.now)).min();
        left.filter(|_| self.state() == State::Degraded)
    }
}

impl State {
    /// Returns the word for a process in this state.
    #[must_use]
    pub fn of_process(self) -> &'static str {
        match self {
            Self::Met => "ready",
            Self::Degraded => "degraded",
            Self::Lost => "not ready",
        }
    }
}

/// Writes the word for a condition in this state.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Degraded => "degraded",
            Self::Lost => "lost",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn one(state: State, until: Option<u64>) -> Condition {
        let name = format!("{state}-{}", until.unwrap_or_default());
        Condition::new(name, state, "a reason").until(until.map(at))
    }

    #[test]
    fn state_of_a_process_is_that_of_its_gravest_condition() {
        use State::{Degraded, Lost, Met};
        for (conditions, state, left) in [
            (vec![], Met, None),
            (vec![one(Met, Some(150))], Met, None),
            (
                vec![
                    one(Met, Some(110)),
                    one(Degraded, Some(150)),
                    one(Degraded, Some(130)),
                ],
                Degraded,
                Some(30),
            ),
            (vec![one(Degraded, None)], Degraded, None),
            (vec![one(Degraded, Some(50))], Degraded, Some(0)),
            (
                vec![
                    one(Degraded, Some(150)),
                    one(Lost, Some(150)),
                    one(Met, None),
                ],
                Lost,
                None,
            ),
        ] {
            let report = Report {
                now: at(100),
                conditions,
            };
            assert_eq!(report.state(), state);
            assert_eq!(report.left(), left.map(Duration::from_secs), "{report:?}");
        }
    }

    #[test]
    fn reason_that_quotes_a_peer_stays_on_its_line_and_is_cut() {
        let reason = |text: &str| Condition::new("a", State::Met, text).reason;
        assert_eq!(reason("it can't\n\u{1b}[31m é"), r"it can't\n\u{1b}[31m é");
        assert_eq!(reason(&"é".repeat(5000)).chars().count(), MAX_REASON);
    }

    #[test]
    fn sources_are_asked_each_time_in_their_order() {
        let conditions = Conditions::default();
        let count = Arc::new(Mutex::new(0));
        for name in ["a", "b"] {
            let count = Arc::clone(&count);
            conditions.add(move |_| {
                *lock(&count) += 1;
                vec![Condition::new(name, State::Met, lock(&count).to_string())]
            });
        }
        let asked = |_| {
            let report = conditions.clone().report().conditions;
            report
                .into_iter()
                .map(|one| one.name + &one.reason)
                .collect::<Vec<_>>()
        };
        assert_eq!([(); 2].map(asked), [["a1", "b2"], ["a3", "b4"]]);
    }
}
