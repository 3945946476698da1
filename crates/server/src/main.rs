//! Entry point of the server: reads flags and environment, then serves until a signal.

use std::process::ExitCode;

use process::{cli, listen::Inherited};
use tracing::level_filters::LevelFilter;

/// Requests allocate small and large by turns, which glibc's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First: it must be before there are threads.
    let inherited = Inherited::take();
    cli::main("SERVER", LevelFilter::INFO, |config| {
        server::start(config, inherited)
    })
}
