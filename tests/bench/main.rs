//! What scripts/bench.sh runs: the project beside the floor and its peers, under the same loads.
//! Rounds are interleaved, so that a machine that drifts does so for all of them.

mod bodies;
mod check;
mod contender;
mod envoy;
mod figure;
mod growth;
mod load;
mod machine;
mod plot;
mod readme;
mod report;
mod row;
mod running;
mod signature;
mod tools;
mod unverified;

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Result, anyhow};
use clap::{Parser, ValueEnum};

use crate::{
    contender::Contender,
    figure::RowResult,
    machine::Machine,
    report::Results,
    row::{Bench, Row},
};

/// See scripts/bench.sh --help.
#[derive(Debug, Parser)]
struct Options {
    /// Loads, in this order
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Stacks, of those that are there
    #[arg(long, value_enum, value_delimiter = ',')]
    stacks: Vec<Contender>,
    /// How often to measure
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// How long to measure
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the table and the plot into the README too
    #[arg(long)]
    readme: bool,
    /// Compare instructions per request with the committed figures instead
    #[arg(long)]
    check: bool,
    /// Replace the committed figures
    #[arg(long, requires = "check")]
    update: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let result = tokio::select! {
        result = run(&options) => result,
        // Ends what was started, and removes what was written.
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench.sh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    if options.check {
        return check::run(options.update).await;
    }
    let results = measure(options).await?;
    if options.readme {
        readme::write(&results)?;
    }
    if options.json {
        println!("{:#}", results.json());
    } else {
        print!("{}", results.text());
    }
    Ok(())
}

async fn measure(options: &Options) -> Result<Results> {
    let mut rows = chosen(&options.rows);
    if options.rows.is_empty() {
        // Not a comparison of stacks, and longer than all the others.
        rows.retain(|row| *row != Row::Growth);
    }
    let bench = Bench::new(&rows, options.seconds).await?;
    let mut results = Results {
        date: today(),
        machine: Machine::here().await,
        rounds: options.rounds.into(),
        seconds: options.seconds,
        signature_check_micros: signature::check_micros()?,
        rows: Vec::new(),
    };
    for row in rows {
        let contenders: Vec<_> = chosen(&options.stacks)
            .into_iter()
            .filter(|contender| bench.world.has(*contender) && row.includes(*contender))
            .collect();
        let rounds = row.rounds(results.rounds);
        results
            .rows
            .push(measure_row(&bench, row, &contenders, rounds).await);
    }
    Ok(results)
}

/// One round of each stack, then the next round. A stack that fails is left out from then on.
async fn measure_row(
    bench: &Bench,
    row: Row,
    contenders: &[Contender],
    rounds: usize,
) -> RowResult {
    let mut stacks: Vec<_> = contenders.iter().map(|c| (*c, Vec::new())).collect();
    let mut left_out = Vec::new();
    for round in 1..=rounds {
        let mut measured = Vec::new();
        for (contender, mut samples) in stacks {
            eprintln!("{}, round {round}: {}", row.title(), contender.title());
            match bench.sample(row, contender).await {
                Ok(sample) => {
                    samples.push(sample);
                    measured.push((contender, samples));
                }
                Err(error) => {
                    eprintln!("  left out: {error:#}");
                    left_out.push((contender, format!("{error:#}")));
                }
            }
        }
        stacks = measured;
    }
    RowResult {
        row,
        stacks,
        left_out,
    }
}

/// Those that were asked for, or all.
fn chosen<T: ValueEnum + Clone>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() {
        return T::value_variants().to_vec();
    }
    asked.to_vec()
}

/// The day in UTC, as in 2026-01-31.
fn today() -> String {
    let mut now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.truncate("2026-01-31".len());
    now
}
