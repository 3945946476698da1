//! What scripts/bench.sh is told.

use anyhow::{Result, ensure};
use clap::Parser;

use crate::{check, contender::Contender, measure, readme, row::Row, train};

/// See scripts/bench.sh --help.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Loads, in this order
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,
    /// Stacks, of those that are there
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) stacks: Vec<Contender>,
    /// How often to measure
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) rounds: u8,
    /// How long to measure
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write the table into tests/README.md, and the plot beside it
    #[arg(long)]
    readme: bool,
    /// Compare instructions per request with the committed figures instead
    #[arg(long)]
    check: bool,
    /// Replace the committed figures
    #[arg(long, requires = "check")]
    update: bool,
    /// Only load the project, for scripts/release.sh
    #[arg(long, conflicts_with = "check")]
    train: bool,
}

impl Options {
    /// Does what they ask for.
    pub(crate) async fn run(&self) -> Result<()> {
        if self.check {
            return check::run(self.update).await;
        }
        if self.train {
            return train::run().await;
        }
        let results = measure::all(self).await?;
        if self.json {
            println!("{:#}", results.json());
        } else {
            print!("{}", results.text());
        }
        let left_out: usize = results.rows.iter().map(|row| row.left_out.len()).sum();
        ensure!(left_out == 0, "{left_out} measurements failed");
        if self.readme {
            readme::write(&results)?;
        }
        Ok(())
    }
}
