//! Entry point of dev-agent: reads the configuration, starts the agent, and
//! serves until a signal.

mod cli;

use std::process::ExitCode;

use anyhow::Context as _;
use dev_agent::{Config, DevAgent};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = cli::config(); // refuses bad flags with exit code 2
    cli::log_to_stderr();
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    // Before the socket is there: a signal meanwhile must not leave it behind.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let agent = DevAgent::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    agent.stop().await;
    Ok(())
}
