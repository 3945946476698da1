//! Runs for scripts/bench.sh. It measures the project, the floor and other proxies under the same
//! load. Rounds are interleaved, so that a change of the machine's speed affects all of them.

mod application;
mod bodies;
mod chain;
mod check;
mod contender;
mod envoy;
mod far;
mod figure;
mod growth;
mod load;
mod loads;
mod machine;
mod measure;
mod options;
mod plot;
mod readme;
mod relay;
mod report;
mod row;
mod running;
mod sample;
mod scrape;
mod signature;
mod tools;
mod train;
mod unverified;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser as _;

use crate::options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    harness::tool::run("bench.sh", run(&options)).await
}

/// Does the work that the options ask for.
async fn run(options: &Options) -> Result<()> {
    if options.check {
        return check::run(options.update).await;
    }
    if options.train {
        return train::run().await;
    }
    let results = measure::all(options).await?;
    if options.json {
        println!("{:#}", results.json());
    } else {
        print!("{}", results.text());
    }
    let left_out: usize = results.rows.iter().map(|row| row.left_out.len()).sum();
    ensure!(left_out == 0, "{left_out} measurements failed");
    if options.readme {
        readme::write(&results)?;
    }
    Ok(())
}
