//! Entry point of dev-agent: reads the command line, and serves as an agent or controls one.

mod cli;
mod run;

use std::{io::Write, process::ExitCode};

use tracing::error;

use crate::cli::Task;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // `task` exits with status 2 on a wrong command line.
    let result = match cli::task() {
        Task::Serve(config, control) => {
            cli::log_to_stderr();
            let served = run::serve(*config, control).await;
            served.inspect_err(|error| error!("{error:#}"))
        }
        Task::Ctl(request) => run::ctl(request).await.inspect_err(|error| {
            // The exit status tells enough if standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
