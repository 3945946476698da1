//! Entry point of the server: reads flags and environment, then serves until a signal.

use std::process::ExitCode;

use common::cli;
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    cli::main("SERVER", LevelFilter::INFO, server::start)
}
