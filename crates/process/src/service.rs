//! The life of a binary that listens. It claims its address, gets an identity, serves on each core,
//! and stops.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use common::workload::{self, WorkloadApi, X509Source};
use serve::{Shared, listen::Listener, shutdown::Shutdown, spans::Recorded, tenure::Tenure};
use tracing::info;

use crate::{
    admin::Admin,
    cli::{self, ServeArgs, WorkloadApiArgs},
    export::Exporter,
    listen::{self, ClaimedAddress, Inherited, ListenFlag},
    notify::{ServiceManager, WAITING},
    runtime::{self, Cores, OpenFiles},
    sandbox, signal, telemetry, tenure,
};

/// A binary that has claimed its address and does not listen yet.
#[derive(Debug)]
pub struct Service {
    address: ClaimedAddress,
    /// The request to stop.
    shutdown: Shutdown,
    /// The start of the drain, which comes `--stop-delay` after the request to stop.
    drain: Shutdown,
    cores: Cores,
    manager: ServiceManager,
    admin: Admin,
    startup_timeout: Duration,
    shared: Shared,
    exporter: Exporter,
}

/// The listener that a binary asks for.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The name of the program in metrics and spans.
    pub role: &'static str,
    /// The address, if no sockets are passed to the process.
    pub listen: ListenFlag<'a>,
    /// The open files apart from those of the listener.
    pub others: &'a [OpenFiles],
    /// The sampled requests that have spans, if there is a collector.
    pub recorded: Recorded,
}

/// The longest wait for the first answer of all cores. A process whose cores are slow to start is ready
/// all the same.
const FIRST_PING: Duration = Duration::from_secs(10);

impl Service {
    /// Handles signals, and claims the addresses of the admin listener and of the listener. Then it tells a service
    /// manager that the process waits for an identity, lets the admin listener answer, raises the limit of open
    /// files, starts the export of spans, and shows the listener's counts and refused requests.
    ///
    /// # Errors
    /// Fails when signals can't be handled, when an address or a socket that was passed in its place can't be
    /// listened on, or when the CA certificates of the collector can't be used.
    pub fn claim(args: &ServeArgs, inherited: Inherited, claim: Claim<'_>) -> anyhow::Result<Self> {
        let shutdown = signal::shutdown().context("cannot handle signals")?;
        let admin = args.claim_admin()?;
        let address = args.claim(inherited, claim.listen)?;
        let (cores, manager) = (Cores::default(), ServiceManager::from_environment());
        sandbox::announce();
        manager.starting(WAITING, args.startup_timeout * 2);
        let longest = args.stop_delay() + args.limits().drain_timeout;
        manager.follow_stop(shutdown.clone(), longest);
        manager.follow_cores(cores.clone());
        let admin = admin.listen(&cores, &shutdown)?;
        args.raise_open_files_limit(claim.others);
        let spans = &args.spans;
        let (exporter, shared) = spans.start(args.shared(), claim.role, claim.recorded)?;
        admin.follow_listener(claim.role, &shared);
        Ok(Self {
            address,
            admin,
            drain: signal::delayed(shutdown.clone(), args.stop_delay()),
            shutdown,
            cores,
            manager,
            startup_timeout: args.startup_timeout,
            shared,
            exporter,
        })
    }

    /// Returns the parts of the listener that all cores share.
    #[must_use]
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Returns the service manager, which follows this process.
    #[must_use]
    pub fn manager(&self) -> &ServiceManager {
        &self.manager
    }

    /// Returns the cores of this process, which have not started yet.
    #[must_use]
    pub fn cores(&self) -> &Cores {
        &self.cores
    }

    /// Returns the state of this process for its operators.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Follows the Workload API that the flags name. It has `--startup-timeout` to issue an identity. The
    /// service manager is told what an identity waits for and each change of its state, which is also among
    /// the conditions of the process.
    #[must_use]
    pub fn follow_workload_api(&self, args: &WorkloadApiArgs) -> WorkloadApi {
        let monitor = self.admin.follow_identity();
        self.manager.follow_identity(&monitor);
        args.workload_api(self.startup_timeout).monitored(monitor)
    }

    /// Waits for an identity. Returns `None` if a stop is requested first.
    ///
    /// # Errors
    /// Fails when no identity is issued in time.
    pub async fn identity<T>(
        &self,
        identity: impl Future<Output = Result<T, workload::Error>>,
    ) -> anyhow::Result<Option<T>> {
        self.or_stop(async { identity.await.map_err(cli::with_remedy) })
            .await
    }

    /// Follows the identity that the process presents. Returns its tenure: connections drain when it ends.
    #[must_use]
    pub fn follow_identity(&self, x509: &X509Source) -> Tenure {
        tenure::follow(x509.clone(), self.drain.clone())
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

    /// Follows the bundles that verify callers. Returns their tenure: connections of callers with a certificate
    /// drain when they change.
    #[must_use]
    pub fn follow_bundles(&self, x509: &X509Source) -> Tenure {
        tenure::follow_bundles(x509.clone(), self.drain.clone())
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
        let queue = self.address.queue();
        let listeners = self.address.listen()?;
        let addresses = listen::addresses(&listeners)?;
        announce(listeners.len(), &addresses);
        let drain = self.drain;
        let running = runtime::start_cores(listeners, &self.cores, move |socket| {
            core(Listener { socket, queue }, drain.clone())
        })?;
        let work = format!("listening on {addresses}");
        self.admin.listens("requests", &addresses);
        self.admin.serves(&work);
        let ready = async {
            self.cores.ping(FIRST_PING).await;
            self.manager.ready(&work);
        };
        let (joined, ()) = tokio::join!(running.joined(), ready);
        joined?;
        self.exporter.finish().await;
        // Each thread has a log buffer of its own. The last line of a process comes after all others.
        telemetry::flush();
        info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}
