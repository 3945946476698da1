//! Entry point of dev-agent: reads the command line, and is an agent or moves the
//! levers of one.

mod cli;
mod run;

use std::io::Write as _;
use std::process::ExitCode;

use cli::Task;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Refuses bad flags with exit code 2.
    let result = match cli::task() {
        Task::Serve(config, control) => {
            cli::log_to_stderr();
            let served = run::serve(config, control).await;
            served.inspect_err(|error| tracing::error!("{error:#}"))
        }
        Task::Ctl(order) => run::ctl(order).await.inspect_err(|error| {
            // Without a standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
