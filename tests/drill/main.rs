//! What scripts/drill.sh runs: everything that changes under running processes, one event after the
//! other, while a load goes on that must not notice.

mod agent;
mod event;
mod identity;
mod load;
mod options;
mod processes;
mod report;
mod soak;
mod stack;
mod tally;

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser as _;

use crate::options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    harness::process::install_crypto_provider();
    let result = tokio::select! {
        result = options.run() => result,
        // Ends what was started, and removes what was written.
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drill.sh: {error:#}");
            ExitCode::FAILURE
        }
    }
}
