//! The two things that this program does: be an agent, and move the levers of one.

use std::future::pending;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use dev_agent::control::{self, ControlSocket, Reply};
use dev_agent::{Config, DevAgent};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Control, Order};

/// Serves until a signal.
pub(crate) async fn serve(config: Config, control: Control) -> anyhow::Result<()> {
    // Before the sockets are there: a signal meanwhile must not leave them behind.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let control = control_socket(control, &config.socket)
        .await
        .context("control socket")?;
    let agent = DevAgent::start(config).await?;
    let controlled = async {
        match control {
            Some(control) => control.serve(&agent).await,
            None => pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        never = controlled => match never {},
    }
    agent.stop().await;
    Ok(())
}

async fn control_socket(
    control: Control,
    workload_api: &Path,
) -> anyhow::Result<Option<ControlSocket>> {
    let path = match &control {
        Control::Off => return Ok(None),
        Control::At(path) => path.clone(),
        Control::Beside => control::path_beside(workload_api),
    };
    if control == Control::Beside && !control::fits(&path) {
        // An agent must not fail for a socket that nobody asked for.
        tracing::warn!(
            "no control socket: {} is too long a path; name another one with --control-socket",
            path.display()
        );
        return Ok(None);
    }
    Ok(Some(ControlSocket::bind(&path).await?))
}

/// Moves a lever, and prints what has become of it.
pub(crate) async fn ctl(order: Order) -> anyhow::Result<()> {
    let text = match control::ask(&order.control, &order.lever).await? {
        Reply::Done(done) => done,
        Reply::Status(status) if order.json => serde_json::to_string(&status)?,
        Reply::Status(status) => status.to_string(),
        Reply::Refused(reason) => bail!("{reason}"),
    };
    match io::stdout().write_all(format!("{text}\n").as_bytes()) {
        // A reader such as `grep -q` had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("done, but the answer cannot be printed"),
    }
}
