//! The two tasks of this program: to serve as an agent, and to control one.

use std::{
    future::pending,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, bail};
use dev_agent::{
    Config, DevAgent,
    control::{self, ControlSocket, Reply},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::cli::{Control, CtlRequest};

/// Serves until a signal arrives.
pub(crate) async fn serve(config: Config, control: Control) -> anyhow::Result<()> {
    // Signals are handled before the sockets exist, so that an early one does not leave them behind.
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

/// Makes the control socket, if there is to be one.
async fn control_socket(
    control: Control,
    workload_api: &Path,
) -> anyhow::Result<Option<ControlSocket>> {
    let path = match &control {
        Control::Off => return Ok(None),
        Control::At(path) => path.clone(),
        Control::Default => control::default_path(workload_api),
    };
    if control == Control::Default && !control::fits(&path) {
        // The socket is a default, so an agent must not fail for it.
        warn!(
            "no control socket: {} is too long a path; name another one with --control-socket",
            path.display()
        );
        return Ok(None);
    }
    Ok(Some(ControlSocket::bind(&path).await?))
}

/// Sends a command to an agent, and prints its reply.
pub(crate) async fn ctl(request: CtlRequest) -> anyhow::Result<()> {
    let text = match control::ask(&request.control, &request.command).await? {
        Reply::Done(text) | Reply::Bundle(text) => text,
        Reply::Status(status) if request.json => serde_json::to_string(&status)?,
        Reply::Status(status) => status.to_string(),
        Reply::Refused(reason) => bail!("{reason}"),
    };
    match io::stdout().write_all(format!("{text}\n").as_bytes()) {
        // A reader such as `grep -q` closes the pipe early.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("done, but the answer cannot be printed"),
    }
}
