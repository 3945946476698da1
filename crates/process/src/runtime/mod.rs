//! One current-thread runtime per core. Identity, its watchers and signals live on the main thread.
//! A core owns a listener, its upstream connections and its timers. It wakes another core only to
//! hand off a connection.

mod open_files;
mod parking;

pub use self::open_files::OpenFiles;
pub(crate) use self::open_files::raise_limit as raise_open_files_limit;

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

/// Runs `core` for each of `listeners`, on its own thread and runtime, until all have returned.
///
/// # Errors
/// Fails when a runtime can't be made, or a core ends by a panic.
pub async fn run_cores<C, F>(listeners: Vec<StdSocket>, core: C) -> anyhow::Result<()>
where
    C: Fn(Socket) -> F + Clone + Send + 'static,
    F: Future<Output = ()>,
{
    let mut cores = JoinSet::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let core = core.clone();
        let thread = thread::Builder::new()
            .name(format!("core-{index}"))
            .spawn(move || {
                let mut builder = Builder::new_current_thread();
                let runtime = build(builder.on_thread_park(parking::yield_before_park))?;
                let finished = runtime.block_on(async {
                    core(Socket::from_std(listener)?).await;
                    anyhow::Ok(())
                });
                // A look-up of an upstream may hang, so it is not waited for.
                runtime.shutdown_background();
                finished
            });
        let thread = thread.context("cannot start a thread")?;
        cores.spawn_blocking(|| thread.join());
    }
    while let Some(joined) = cores.join_next().await {
        joined
            .context("cannot wait for a core")?
            .map_err(|_| anyhow::anyhow!("a core ended by a panic"))??;
    }
    Ok(())
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
