//! Collects what an event shows: requests, measurements, faults.

use std::time::Duration;

use crate::{
    report::Row,
    tally::{Judgement, Tally, Wanted},
};

/// The factor of all bounds of times. The binaries are built as the drill is. Full speed is 2,600
/// requests/s in a short drill, which is not optimised, and 10,800 in a full one (`scripts/drill.sh`, with and
/// without `--short`).
const SLOWER: u32 = if cfg!(debug_assertions) { 5 } else { 1 };

/// The longest time from a change to its effect.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(200);
/// The longest time from the agent's return to the recovery of its workloads.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// The time after which no late effect of a change is expected.
pub(crate) const A_WHILE: Duration = Duration::from_secs(2);

/// Collects what an event adds to its row.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    requests: u64,
    posts: u64,
    judged: Judgement,
    worst: Duration,
    /// Measurements.
    notes: Vec<String>,
    /// Deviations from what is required.
    faults: Vec<String>,
}

impl Findings {
    /// Returns the row of the event.
    pub(crate) fn row(self, event: &'static str) -> Row {
        Row {
            event,
            requests: self.requests,
            posts: self.posts,
            judged: self.judged,
            worst: self.worst,
            notes: self.notes,
            faults: self.faults,
        }
    }

    /// Adds requests of which none may have failed.
    pub(crate) fn strict(&mut self, tally: Tally) {
        self.allowing(tally, Wanted::default());
    }

    /// Adds requests. Those that failed although `wanted` does not allow it are a fault. Returns
    /// the judgement of GETs and of POSTs.
    pub(crate) fn allowing(&mut self, tally: Tally, wanted: Wanted) -> [Judgement; 2] {
        let [gets, posts] = tally.judge(wanted);
        self.requests += tally.requests();
        self.posts += tally.posts();
        self.judged = self.judged + gets + posts;
        self.worst = self.worst.max(tally.worst);
        if gets.failed + posts.failed > 0 {
            self.faults.extend(tally.failures(wanted));
        }
        [gets, posts]
    }

    /// Adds one request that was refused as required.
    pub(crate) fn refused(&mut self) {
        self.requests += 1;
        self.judged.refused += 1;
    }

    /// Adds a measurement.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a measurement that must not exceed `most`, which is for optimised binaries.
    pub(crate) fn within(&mut self, what: &str, time: Duration, most: Duration) {
        let most = most * SLOWER;
        self.note(format!("{what} after {} ms", time.as_millis()));
        self.check(
            time <= most,
            format!("{what} after {time:?}, more than {most:?}"),
        );
    }

    /// Adds a fault unless `holds` is true.
    pub(crate) fn check(&mut self, holds: bool, fault: impl Into<String>) {
        if !holds {
            self.faults.push(fault.into());
        }
    }
}
