//! Reports the findings of a drill: a table for people and `tests/README.md`, and JSON for
//! machines.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use harness::results::Marks;
use serde_json::{Value, json};

use crate::tally::Judgement;

const MARKS: Marks = Marks {
    begin: "<!-- scripts/drill.sh --readme writes from here -->\n",
    end: "<!-- to here, the drill -->\n",
};

/// The findings of one event.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) event: &'static str,
    pub(crate) requests: u64,
    pub(crate) posts: u64,
    pub(crate) judged: Judgement,
    pub(crate) worst: Duration,
    pub(crate) notes: Vec<String>,
    pub(crate) faults: Vec<String>,
}

/// The findings of a whole drill.
#[derive(Debug)]
pub(crate) struct Report {
    full_speed: f64,
    short: bool,
    rows: Vec<Row>,
}

impl Row {
    fn is_good(&self) -> bool {
        self.judged.failed == 0 && self.faults.is_empty()
    }

    fn worst_millis(&self) -> u128 {
        self.worst.as_millis()
    }

    /// Returns the findings for a terminal.
    pub(crate) fn line(&self) -> String {
        let verdict = if self.is_good() { "ok" } else { "FAULT" };
        let mut line = format!(
            "{verdict:<6}{:<44}{:>9} requests{:>9} POSTs{:>6} failed{:>7} refused{:>5} lost{:>7} ms worst",
            self.event,
            self.requests,
            self.posts,
            self.judged.failed,
            self.judged.refused,
            self.judged.lost,
            self.worst_millis()
        );
        for note in &self.notes {
            let _ = write!(line, "\n      {note}");
        }
        for fault in &self.faults {
            let _ = write!(line, "\n      FAULT: {fault}");
        }
        line
    }

    fn markdown(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            self.event,
            self.requests,
            self.posts,
            self.judged.failed,
            self.judged.refused,
            self.judged.lost,
            self.worst_millis(),
            self.notes.join("; ")
        )
    }

    fn json(&self) -> Value {
        json!({
            "event": self.event,
            "requests": self.requests,
            "posts": self.posts,
            "failed": self.judged.failed,
            "refused_as_wanted": self.judged.refused,
            "posts_lost_with_a_server": self.judged.lost,
            "worst_pause_ms": self.worst_millis() as u64,
            "notes": self.notes,
            "faults": self.faults,
        })
    }
}

impl Report {
    pub(crate) fn new(full_speed: f64, short: bool, rows: Vec<Row>) -> Self {
        Self {
            full_speed,
            short,
            rows,
        }
    }

    /// Returns how many events failed.
    pub(crate) fn faults(&self) -> usize {
        self.rows.iter().filter(|row| !row.is_good()).count()
    }

    /// Returns the last lines for a terminal, which come after the lines of each event.
    pub(crate) fn text(&self) -> String {
        let requests: u64 = self.rows.iter().map(|row| row.requests).sum();
        let posts: u64 = self.rows.iter().map(|row| row.posts).sum();
        let judged = self.rows.iter().map(|row| row.judged);
        let judged = judged.fold(Judgement::default(), |sum, row| sum + row);
        format!(
            "{} events, {} with a fault; {requests} requests, {posts} of them POSTs; \
             {} failed, {} refused as wanted, {} POSTs lost with a server; full speed {:.0} requests/s\n",
            self.rows.len(),
            self.faults(),
            judged.failed,
            judged.refused,
            judged.lost,
            self.full_speed
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "full_speed_requests_per_second": self.full_speed.round(),
            "short": self.short,
            "events": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }

    /// Rewrites the table in `tests/README.md`.
    pub(crate) fn write_readme(&self) -> Result<()> {
        let mut part = String::from(
            "| event | requests | POSTs | failed | refused as wanted | POSTs lost with a server | worst pause, ms | seen |\n\
             |---|---:|---:|---:|---:|---:|---:|---|\n",
        );
        part.extend(self.rows.iter().map(Row::markdown));
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (day, speed) = (&now[..10], self.full_speed);
        let _ = write!(part, "\n{day}; full speed is {speed:.0} requests/s here.\n");
        Ok(MARKS.rewrite(&part)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_good_without_failures_and_faults() {
        let row = |failed, faults: &[&str]| Row {
            event: "an event",
            requests: 10,
            posts: 5,
            judged: Judgement {
                failed,
                refused: 2,
                lost: 1,
            },
            worst: Duration::from_millis(5),
            notes: Vec::new(),
            faults: faults.iter().map(ToString::to_string).collect(),
        };
        let rows = vec![row(0, &[]), row(1, &[]), row(0, &["too late"])];
        let report = Report::new(100.0, true, rows);
        assert_eq!(report.faults(), 2);
        assert_eq!(report.json()["events"][1]["failed"], 1);
        assert!(
            report
                .text()
                .contains("1 failed, 6 refused as wanted, 3 POSTs lost")
        );
        assert!(report.rows[2].line().starts_with("FAULT"));
    }

    #[test]
    fn the_readme_has_the_marks() {
        assert!(MARKS.are_there());
    }
}
