//! Parses the options of scripts/drill.sh.

use anyhow::{Result, bail};
use clap::Parser;

use crate::{
    event::Event,
    report::{Report, Row},
    scale::Scale,
    soak,
    stack::Stack,
};

/// See scripts/drill.sh --help.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Run all events, each for a shorter time
    #[arg(long)]
    short: bool,
    /// Events to run, by their names in the help of drill.sh
    #[arg(long, value_enum, value_delimiter = ',')]
    events: Vec<Event>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write the table into tests/README.md
    #[arg(long, conflicts_with = "short")]
    readme: bool,
    /// Instead send this many requests while all identities rotate continuously
    #[arg(long, value_name = "REQUESTS", conflicts_with_all = ["short", "events", "readme"])]
    soak: Option<u64>,
}

impl Options {
    /// Does the work that the options ask for.
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
            faults => bail!("{faults} events failed"),
        }
    }

    /// Runs two stacks at the same time, each with half of the load.
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

/// Runs the events of one stack.
async fn run_all(
    events: Vec<Event>,
    stack: impl Future<Output = Result<Stack>>,
    per_second: f64,
    scale: Scale,
) -> Result<Vec<Row>> {
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
