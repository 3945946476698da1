//! Parses the options of scripts/bench.sh.

use clap::Parser;

use crate::{contender::Contender, row::Row};

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
    pub(crate) json: bool,
    /// Also write the table into tests/README.md, and the plot next to it
    #[arg(long)]
    pub(crate) readme: bool,
    /// Compare the instructions per request with the committed figures instead
    #[arg(long)]
    pub(crate) check: bool,
    /// Replace the committed figures
    #[arg(long, requires = "check")]
    pub(crate) update: bool,
    /// Only send load to the project, for scripts/release.sh
    #[arg(long, conflicts_with = "check")]
    pub(crate) train: bool,
}
