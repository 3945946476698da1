//! Runs the work of a program that a script starts, which is the bench or the drill.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

/// Does `work` until it is done or Ctrl-C comes, and prints a failure under the name of the script.
///
/// Interrupted work is dropped, which ends the processes that it started and removes its files.
pub async fn run(script: &str, work: impl Future<Output = Result<()>>) -> ExitCode {
    let result = tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{script}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
