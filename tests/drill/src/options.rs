//! What scripts/drill.sh is told.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;

use crate::{event::Event, report::Report, soak, stack::Stack};

/// See scripts/drill.sh --help.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Everything, each for a shorter time
    #[arg(long)]
    short: bool,
    /// Events, of those in the table
    #[arg(long, value_enum, value_delimiter = ',')]
    events: Vec<Event>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write the table into tests/README.md
    #[arg(long)]
    readme: bool,
    /// Instead: so many requests while all identities rotate without end
    #[arg(long, value_name = "REQUESTS", conflicts_with_all = ["short", "events", "readme"])]
    soak: Option<u64>,
}

/// How long events last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    short: bool,
}

impl Scale {
    /// What takes `full` seconds in a full drill.
    pub(crate) fn seconds(self, full: u64) -> Duration {
        let seconds = if self.short { full / 12 } else { full };
        Duration::from_secs(seconds.max(2))
    }

    /// How often to do what is done `full` times in a full drill.
    pub(crate) fn times(self, full: u32) -> u32 {
        if self.short { full / 10 } else { full }
    }
}

impl Options {
    /// Does what they ask for.
    pub(crate) async fn run(&self) -> Result<()> {
        if let Some(requests) = self.soak {
            return soak::run(requests, self.json).await;
        }
        let report = self.drill().await?;
        if self.json {
            println!("{:#}", report.json());
        } else {
            print!("{}", report.text());
        }
        if self.readme {
            report.write_readme()?;
        }
        match report.faults() {
            0 => Ok(()),
            faults => bail!("{faults} events did not go as they should"),
        }
    }

    /// Two stacks side by side, each with half of the load.
    async fn drill(&self) -> Result<Report> {
        let scale = Scale { short: self.short };
        let chosen = |event: &Event| self.events.is_empty() || self.events.contains(event);
        let (first, second): (Vec<_>, Vec<_>) = Event::ALL
            .into_iter()
            .filter(chosen)
            .partition(|event| event.is_of_first_stack());
        let full = Stack::full_speed().await?;
        let share = full / 4.0;
        let (first, second) = tokio::try_join!(
            run_all(first, Stack::handed_over(), share, scale),
            run_all(second, Stack::sharing_its_port(), share, scale),
        )?;
        Ok(Report::new(full, self.short, [first, second].concat()))
    }
}

/// The events on one stack.
async fn run_all(
    events: Vec<Event>,
    stack: impl Future<Output = Result<Stack>>,
    per_second: f64,
    scale: Scale,
) -> Result<Vec<crate::report::Row>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut stack = stack.await?;
    stack.load.go(Some(per_second));
    let mut rows = Vec::new();
    for event in events {
        let row = event.run(&mut stack, scale).await?;
        eprintln!("{}", row.line());
        rows.push(row);
    }
    stack.end().await?;
    Ok(rows)
}
