//! Counts the outcomes of requests, and tells failures from refusals that are wanted.

use std::{collections::BTreeMap, time::Duration};

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The proxy and the caller may send a GET again.
    Get,
    /// A POST may not be sent again, because it may have had an effect.
    Post,
}

/// The outcome of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The request was answered 200.
    Good,
    /// The request was answered with another status.
    Status(u16),
    /// The request had no answer, for this reason.
    Broken(String),
}

/// The outcomes that are not failures while an event lasts. The drill's documentation has the rule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// A request may be answered with these statuses.
    pub(crate) statuses: &'static [u16],
    /// A request may have no answer.
    pub(crate) broken: bool,
    /// A POST that a killed server may have received may be answered with these statuses.
    pub(crate) lost_posts: &'static [u16],
}

/// Counts requests without a good answer, by what was wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Requests that had to be answered 200.
    pub(crate) failed: u64,
    /// Requests that nobody could have answered otherwise.
    pub(crate) refused: u64,
    /// POSTs that a killed server may have received.
    pub(crate) lost: u64,
}

/// Counts requests of one kind.
#[derive(Clone, Debug, Default)]
struct Counts {
    good: u64,
    statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by the reason.
    broken: BTreeMap<String, u64>,
}

/// Counts requests by their outcome.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    gets: Counts,
    posts: Counts,
    /// The number of kept connections that ended and were opened again.
    pub(crate) reopened: u64,
    /// The longest time of a request that was answered 200, repetitions included.
    pub(crate) worst: Duration,
}

impl Counts {
    fn all(&self) -> u64 {
        self.good + self.of(|_| true) + self.broken()
    }

    fn broken(&self) -> u64 {
        self.broken.values().sum()
    }

    /// Returns how many were answered with a status other than 200 for which `counts` is true.
    fn of(&self, counts: impl Fn(u16) -> bool) -> u64 {
        let counted = self.statuses.iter().filter(|(status, _)| counts(**status));
        counted.map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: Self) {
        self.good += other.good;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (why, count) in other.broken {
            *self.broken.entry(why).or_default() += count;
        }
    }

    /// Describes the failures.
    fn failures(&self, wanted: Wanted, lost: &[u16]) -> Vec<String> {
        let excused = |status| wanted.statuses.contains(status) || lost.contains(status);
        let statuses = self.statuses.iter();
        let statuses = statuses.filter(|(status, _)| !excused(status));
        let statuses = statuses.map(|(status, count)| format!("{count} answered {status}"));
        let broken = self.broken.iter().filter(|_| !wanted.broken);
        let broken = broken.map(|(why, count)| format!("{count} broken: {why}"));
        statuses.chain(broken).collect()
    }

    fn judge(&self, wanted: Wanted, lost: &[u16]) -> Judgement {
        let broken = if wanted.broken { self.broken() } else { 0 };
        let refused = self.of(|status| wanted.statuses.contains(&status)) + broken;
        let lost = self.of(|status| lost.contains(&status) && !wanted.statuses.contains(&status));
        Judgement {
            failed: self.all() - self.good - refused - lost,
            refused,
            lost,
        }
    }
}

impl Tally {
    /// Counts one request.
    pub(crate) fn count(&mut self, kind: Kind, outcome: Outcome, took: Duration) {
        let counts = match kind {
            Kind::Get => &mut self.gets,
            Kind::Post => &mut self.posts,
        };
        match outcome {
            Outcome::Good => {
                counts.good += 1;
                self.worst = self.worst.max(took);
            }
            Outcome::Status(status) => {
                *counts.statuses.entry(status).or_default() += 1;
            }
            Outcome::Broken(why) => *counts.broken.entry(why).or_default() += 1,
        }
    }

    /// Adds the requests of another tally.
    pub(crate) fn add(&mut self, other: Self) {
        self.gets.add(other.gets);
        self.posts.add(other.posts);
        self.reopened += other.reopened;
        self.worst = self.worst.max(other.worst);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.gets.all() + self.posts.all()
    }

    pub(crate) fn posts(&self) -> u64 {
        self.posts.all()
    }

    /// Judges GETs and POSTs.
    pub(crate) fn judge(&self, wanted: Wanted) -> [Judgement; 2] {
        [
            self.gets.judge(wanted, &[]),
            self.posts.judge(wanted, wanted.lost_posts),
        ]
    }

    /// Describes the failures.
    pub(crate) fn failures(&self, wanted: Wanted) -> Vec<String> {
        let gets = self.gets.failures(wanted, &[]);
        let posts = self.posts.failures(wanted, wanted.lost_posts);
        let gets = gets.into_iter().map(|text| format!("GETs: {text}"));
        let posts = posts.into_iter().map(|text| format!("POSTs: {text}"));
        gets.chain(posts).collect()
    }
}

impl std::ops::Add for Judgement {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            failed: self.failed + other.failed,
            refused: self.refused + other.refused,
            lost: self.lost + other.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts four requests: one answered 200, one 503, one 401, and one without an answer.
    fn count(tally: &mut Tally, kind: Kind) {
        let second = Duration::from_secs(1);
        tally.count(kind, Outcome::Good, second);
        tally.count(kind, Outcome::Status(503), second * 2);
        tally.count(kind, Outcome::Status(401), second * 2);
        tally.count(kind, Outcome::Broken("refused".into()), second * 2);
    }

    fn judgement(failed: u64, refused: u64, lost: u64) -> Judgement {
        Judgement {
            failed,
            refused,
            lost,
        }
    }

    #[test]
    fn wanted_refusals_are_not_failures() {
        let mut tally = Tally::default();
        count(&mut tally, Kind::Get);
        assert_eq!((tally.requests(), tally.posts()), (4, 0));
        assert_eq!(tally.worst, Duration::from_secs(1));
        let wanted = |statuses, broken| Wanted {
            statuses,
            broken,
            lost_posts: &[503],
        };
        for (wanted, failed, refused) in [
            (Wanted::default(), 3, 0),
            (wanted(&[], false), 3, 0),
            (wanted(&[503], false), 2, 1),
            (wanted(&[401, 503], false), 1, 2),
            (wanted(&[401, 503], true), 0, 3),
        ] {
            assert_eq!(tally.judge(wanted)[0], judgement(failed, refused, 0));
        }
        let told = [
            "GETs: 1 answered 401",
            "GETs: 1 answered 503",
            "GETs: 1 broken: refused",
        ];
        assert_eq!(tally.failures(Wanted::default()), told);
        assert_eq!(tally.failures(wanted(&[401], true)), [told[1]]);
    }

    #[test]
    fn lost_posts_are_counted_once_and_apart() {
        let mut tally = Tally::default();
        count(&mut tally, Kind::Get);
        count(&mut tally, Kind::Post);
        assert_eq!((tally.requests(), tally.posts()), (8, 4));
        let mut twice = tally.clone();
        twice.add(tally.clone());
        assert_eq!((twice.requests(), twice.posts()), (16, 8));
        let lost_posts = &[503];
        let wanted = Wanted {
            lost_posts,
            ..Wanted::default()
        };
        assert_eq!(
            tally.judge(wanted),
            [judgement(3, 0, 0), judgement(2, 0, 1)]
        );
        let wanted = Wanted {
            statuses: &[503],
            broken: true,
            lost_posts,
        };
        assert_eq!(tally.judge(wanted), [judgement(1, 2, 0); 2]);
        let told = twice.failures(Wanted {
            statuses: &[],
            ..wanted
        });
        assert_eq!(
            told,
            [
                "GETs: 2 answered 401",
                "GETs: 2 answered 503",
                "POSTs: 2 answered 401"
            ]
        );
    }
}
