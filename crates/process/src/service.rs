//! The life of a binary that listens. It claims its address, gets an identity, serves on each core,
//! and stops.

use std::process::ExitCode;

use anyhow::Context;
use common::workload::{self, X509Source};
use serve::{listen::Listener, shutdown::Shutdown, tenure::Tenure};
use tracing::info;

use crate::{
    cli::{self, ServeArgs},
    listen::{self, ClaimedAddress, Inherited, ListenFlag},
    runtime, signal, telemetry, tenure,
};

/// A binary that has claimed its address and does not listen yet.
#[derive(Debug)]
pub struct Service {
    address: ClaimedAddress,
    shutdown: Shutdown,
}

impl Service {
    /// Handles signals and claims the address. A mistake in the address is found before anything
    /// else.
    ///
    /// # Errors
    /// Fails when the address, or a socket that was passed in its place, can't be listened on.
    pub fn claim(
        args: &ServeArgs,
        inherited: Inherited,
        listen: ListenFlag<'_>,
    ) -> anyhow::Result<Self> {
        let shutdown = signal::shutdown().context("cannot handle signals")?;
        let address = args.claim(inherited, listen)?;
        Ok(Self { address, shutdown })
    }

    /// Waits for an identity. Returns `None` if a stop is requested first.
    ///
    /// # Errors
    /// Fails when no identity is issued in time.
    pub async fn identity<T>(
        &self,
        identity: impl Future<Output = Result<T, workload::Error>>,
    ) -> anyhow::Result<Option<T>> {
        let issued = async { identity.await.map_err(cli::with_remedy) };
        self.or_stop(issued).await
    }

    /// Follows the identity that the process presents. Connections drain when it ends.
    #[must_use]
    pub fn tenure(&self, x509: &X509Source) -> Tenure {
        tenure::follow(x509.clone(), self.shutdown.clone())
    }

    /// Waits for another part of the start. Returns `None` if a stop is requested first.
    ///
    /// # Errors
    /// Fails when that part fails.
    pub async fn or_stop<T>(
        &self,
        part: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Option<T>> {
        tokio::select! {
            part = part => part.map(Some),
            () = self.shutdown.clone().requested() => Ok(None),
        }
    }

    /// Follows the bundles that verify callers. Connections of callers with a certificate drain when they
    /// change.
    #[must_use]
    pub fn trust(&self, x509: &X509Source) -> Tenure {
        tenure::follow_bundles(x509.clone(), self.shutdown.clone())
    }

    /// Listens, and runs `core` on each core until a stop is requested and all have drained.
    /// `announce` logs that the process listens, with the number of cores and the addresses.
    ///
    /// # Errors
    /// Fails when there is nothing to listen on, or when a core can't run.
    pub async fn run<F>(
        self,
        announce: impl FnOnce(usize, &str),
        core: impl Fn(Listener, Shutdown) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<ExitCode>
    where
        F: Future<Output = ()>,
    {
        let Self { address, shutdown } = self;
        let queue = address.queue();
        let listeners = address.listen()?;
        announce(listeners.len(), &listen::addresses(&listeners)?);
        runtime::run_cores(listeners, move |socket| {
            core(Listener { socket, queue }, shutdown.clone())
        })
        .await?;
        // Each thread has a log buffer of its own. The last line of a process comes after all others.
        telemetry::flush();
        info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}
