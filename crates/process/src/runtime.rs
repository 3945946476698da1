//! One current-thread runtime per core. Identity, its watchers and signals live on the main thread;
//! a core owns a listener, its upstream connections and its timers, and wakes another only to give it
//! a connection.

mod turn;

use std::{net::TcpListener as StdListener, process::ExitCode, thread};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tracing::{error, warn};

/// Runs `main` on the main thread's runtime; a failure is logged here, once, as one line.
pub fn run<F: Future<Output = anyhow::Result<ExitCode>>>(main: F) -> ExitCode {
    let finished = build(&mut Builder::new_current_thread()).and_then(|runtime| {
        let finished = runtime.block_on(main);
        // Not to wait for a name look-up that hangs in a thread of its own.
        runtime.shutdown_background();
        finished
    });
    finished.unwrap_or_else(|cause| {
        error!("{cause:#}");
        ExitCode::FAILURE
    })
}

/// Runs `core` on a thread and runtime of its own for each of `listeners`, until all have returned.
///
/// # Errors
/// When a runtime can't be made, or a core ended by a panic.
pub async fn run_cores<C, F>(listeners: Vec<StdListener>, core: C) -> anyhow::Result<()>
where
    C: Fn(TcpListener) -> F + Clone + Send + 'static,
    F: Future<Output = ()>,
{
    let mut cores = JoinSet::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let core = core.clone();
        let thread = thread::Builder::new()
            .name(format!("core-{index}"))
            .spawn(move || {
                let mut builder = Builder::new_current_thread();
                let runtime = build(builder.on_thread_park(turn::give))?;
                let finished = runtime.block_on(async {
                    core(TcpListener::from_std(listener)?).await;
                    anyhow::Ok(())
                });
                // As above: upstreams are looked up here.
                runtime.shutdown_background();
                finished
            });
        let thread = thread.context("cannot start a thread")?;
        cores.spawn_blocking(|| thread.join());
    }
    while let Some(joined) = cores.join_next().await {
        joined
            .context("a core was not waited for")?
            .map_err(|_| anyhow::anyhow!("a core ended by a panic"))??;
    }
    Ok(())
}

/// Raises the soft limit of open files to the hard one; warns when that is less than `connections`
/// and what a process has open besides.
pub(crate) fn allow_open_files(connections: usize) {
    const BESIDES: u64 = 100;
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(hard) if hard < connections as u64 + BESIDES => warn!(
            "{connections} connections and handshakes are allowed, but only {hard} open files: lower --max-connections and --max-handshakes, or raise the limit (ulimit -n, LimitNOFILE=)"
        ),
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Cores that this process may use.
#[must_use]
pub fn available_cores() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

fn build(builder: &mut Builder) -> anyhow::Result<Runtime> {
    let runtime = builder.enable_all().build();
    runtime.context("cannot start the async runtime")
}
