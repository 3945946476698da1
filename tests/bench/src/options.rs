//! Parses the options of scripts/bench.sh.

use anyhow::{Result, ensure};
use clap::Parser;

use crate::{check, contender::Contender, measure, readme, row::Row, train};

/// See scripts/bench.sh --help.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Rows to measure, in this order
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,
    /// Stacks to measure, if their programs are there
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) stacks: Vec<Contender>,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) rounds: u8,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also write the table into tests/README.md, and the plot next to it
    #[arg(long)]
    readme: bool,
    /// Compare the instructions per request with the committed figures instead
    #[arg(long)]
    check: bool,
    /// Replace the committed figures
    #[arg(long, requires = "check")]
    update: bool,
    /// Only send load to the project, for scripts/release.sh
    #[arg(long, conflicts_with = "check")]
    train: bool,
}

impl Options {
    /// Does the work that the options ask for.
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
