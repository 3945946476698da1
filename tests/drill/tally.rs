//! What became of the requests of a while.

use std::{collections::BTreeMap, time::Duration};

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer that it should have.
    Good,
    /// Another status.
    Status(u16),
    /// No answer, and why.
    Broken(String),
}

/// What is no failure while an event lasts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// Answers with these.
    pub(crate) statuses: &'static [u16],
    /// No connection, or none that lasts.
    pub(crate) broken: bool,
}

/// Requests, counted by what became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    good: u64,
    statuses: BTreeMap<u16, u64>,
    broken: u64,
    /// Connections that are meant to be kept and had to be opened anew.
    pub(crate) reopened: u64,
    /// The longest that a good one took, repetitions included.
    pub(crate) worst: Duration,
    /// How the first few failed.
    pub(crate) samples: Vec<String>,
}

/// So many failures are told in words.
const SAMPLES: usize = 5;

impl Tally {
    pub(crate) fn count(&mut self, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Good => {
                self.good += 1;
                self.worst = self.worst.max(took);
            }
            Outcome::Status(status) => {
                *self.statuses.entry(status).or_default() += 1;
                self.sample(format!("status {status}"));
            }
            Outcome::Broken(why) => {
                self.broken += 1;
                self.sample(why);
            }
        }
    }

    fn sample(&mut self, text: String) {
        if self.samples.len() < SAMPLES && !self.samples.contains(&text) {
            self.samples.push(text);
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.good + self.statuses.values().sum::<u64>() + self.broken
    }

    /// How many had no good answer though they should have, and how many as they should.
    pub(crate) fn failed_and_refused(&self, wanted: Wanted) -> (u64, u64) {
        let refused =
            |(status, count): (&u16, &u64)| wanted.statuses.contains(status).then_some(*count);
        let by_status: u64 = self.statuses.iter().filter_map(refused).sum();
        let refused = by_status + if wanted.broken { self.broken } else { 0 };
        (self.requests() - self.good - refused, refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_no_failure() {
        let mut tally = Tally::default();
        let second = Duration::from_secs(1);
        tally.count(Outcome::Good, second);
        tally.count(Outcome::Status(503), second * 2);
        tally.count(Outcome::Status(401), second * 2);
        tally.count(Outcome::Broken("refused".into()), second * 2);
        assert_eq!((tally.requests(), tally.worst), (4, second));
        let wanted = |statuses, broken| Wanted { statuses, broken };
        for (wanted, failed, refused) in [
            (Wanted::default(), 3, 0),
            (wanted(&[503], false), 2, 1),
            (wanted(&[401, 503], false), 1, 2),
            (wanted(&[401, 503], true), 0, 3),
        ] {
            assert_eq!(tally.failed_and_refused(wanted), (failed, refused));
        }
        assert_eq!(tally.samples, ["status 503", "status 401", "refused"]);
    }
}
