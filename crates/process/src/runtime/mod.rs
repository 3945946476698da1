//! One current-thread runtime per core. Identity, its watchers and signals live on the main thread.
//! A core owns a listener, its upstream connections and its timers. It wakes another core only to
//! hand off a connection.

mod open_files;
mod ping;

pub use self::open_files::OpenFiles;
pub(crate) use self::open_files::{
    check as check_open_files_limit, raise_limit as raise_open_files_limit,
};
pub use self::ping::Cores;

use std::{process::ExitCode, thread};

use anyhow::Context;
use serve::listen::{Socket, StdSocket};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tracing::error;

/// Runs `main` on the main thread's runtime. Logs a failure once, as one line.
pub fn run<F: Future<Output = anyhow::Result<ExitCode>>>(main: F) -> ExitCode {
    let finished = build(&mut Builder::new_current_thread()).and_then(|runtime| {
        let finished = runtime.block_on(main);
        // A name look-up in another thread may hang, so it is not waited for.
        runtime.shutdown_background();
        finished
    });
    finished.unwrap_or_else(|cause| {
        error!("{cause:#}");
        ExitCode::FAILURE
    })
}

/// The threads of cores that run.
#[derive(Debug)]
pub(crate) struct RunningCores(JoinSet<thread::Result<anyhow::Result<()>>>);

/// Starts `core` for each of `listeners`, on its own thread and runtime. Each answers the pings of `cores`.
///
/// # Errors
/// Fails when a thread can't be started.
pub(crate) fn start_cores<C, F>(
    listeners: Vec<StdSocket>,
    cores: &Cores,
    core: C,
) -> anyhow::Result<RunningCores>
where
    C: Fn(Socket) -> F + Clone + Send + 'static,
    F: Future<Output = ()>,
{
    let mut running = JoinSet::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let name = format!("core-{index}");
        let (core, pings) = (core.clone(), cores.add(&name));
        let thread = thread::Builder::new().name(name).spawn(move || {
            let runtime = build(&mut Builder::new_current_thread())?;
            let finished = runtime.block_on(async {
                pings.answer();
                core(Socket::from_std(listener)?).await;
                anyhow::Ok(())
            });
            // A look-up of an upstream may hang, so it is not waited for.
            runtime.shutdown_background();
            finished
        });
        let thread = thread.context("cannot start a thread")?;
        running.spawn_blocking(|| thread.join());
    }
    Ok(RunningCores(running))
}

impl RunningCores {
    /// Waits until all cores have returned.
    ///
    /// # Errors
    /// Fails when a runtime can't be made, or a core ends by a panic.
    pub(crate) async fn joined(mut self) -> anyhow::Result<()> {
        while let Some(joined) = self.0.join_next().await {
            joined
                .context("cannot wait for a core")?
                .map_err(|_| anyhow::anyhow!("a core ended by a panic"))??;
        }
        Ok(())
    }
}

/// Returns the number of cores that this process may use.
#[must_use]
pub fn available_cores() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Builds a runtime with timers and I/O.
fn build(builder: &mut Builder) -> anyhow::Result<Runtime> {
    let runtime = builder.enable_all().build();
    runtime.context("cannot start the async runtime")
}
