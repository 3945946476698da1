//! Measures all rows. Rounds are interleaved, so that a change of the machine's speed affects all
//! stacks.

use std::time::SystemTime;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    contender::Contender, figure::RowResult, machine::Machine, options::Options, report::Results,
    row::Row, sample::Bench, signature,
};

/// Measures the rows and stacks that were asked for, as far as their programs are there.
pub(crate) async fn all(options: &Options) -> Result<Results> {
    let mut rows = chosen(&options.rows);
    if options.rows.is_empty() {
        // The row compares no stacks, and it takes longer than all others.
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
            .push(one(&bench, row, &contenders, rounds).await);
    }
    Ok(results)
}

/// Measures one round of each stack, then the next round. Leaves out a stack after it has failed.
async fn one(bench: &Bench, row: Row, contenders: &[Contender], rounds: usize) -> RowResult {
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

/// Returns the values that were asked for, or all.
fn chosen<T: ValueEnum + Clone>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() {
        return T::value_variants().to_vec();
    }
    asked.to_vec()
}

/// Returns the day in UTC, as in 2026-01-31.
fn today() -> String {
    let mut now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.truncate("2026-01-31".len());
    now
}
