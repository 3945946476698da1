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
mod machine;
mod measure;
mod options;
mod plot;
mod readme;
mod relay;
mod report;
mod row;
mod running;
mod scrape;
mod signature;
mod tools;
mod train;
mod unverified;

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    harness::tool::run("bench.sh", options.run()).await
}
