//! Entry point of the client: reads flags and environment, makes its request, and prints the
//! response.

use std::process::ExitCode;

use process::cli;
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    cli::main("CLIENT", LevelFilter::WARN, client::start)
}
