//! Entry point of the proxy: reads flags and environment, then serves until a signal.

use std::process::ExitCode;

use common::cli;
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    cli::main("PROXY", LevelFilter::INFO, proxy::start)
}
