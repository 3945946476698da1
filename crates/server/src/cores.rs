//! The cores of a server, and the lines about their start and their end.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use common::bearer::Enforcement;
use process::service::Service;
use serve::{listen::Listener, shutdown::Shutdown};
use spiffe::SpiffeId;
use tracing::{info, warn};

/// The parts of the line about a start.
pub(crate) struct StartLog<'a> {
    pub(crate) spiffe_id: &'a SpiffeId,
    pub(crate) application: Option<String>,
    /// The end of the line, if the server serves something other than requests.
    pub(crate) purpose: &'a str,
    pub(crate) enforcement: Enforcement,
    pub(crate) observed: Arc<AtomicU64>,
}

/// Serves on all cores until a signal arrives.
pub(crate) async fn serve_on_cores<F>(
    service: Service,
    log: StartLog<'_>,
    core: impl Fn(Listener, Shutdown) -> F + Clone + Send + 'static,
) -> anyhow::Result<ExitCode>
where
    F: Future<Output = ()>,
{
    let StartLog {
        spiffe_id,
        application,
        purpose,
        enforcement,
        observed,
    } = log;
    let announce = |cores, addresses: &str| match enforcement {
        Enforcement::On => {
            info!(%spiffe_id, cores, application, "listening on {addresses}{purpose}");
        }
        Enforcement::Observe => {
            warn!(%spiffe_id, cores, application, "listening on {addresses}{purpose}, and refusing no request because of --enforce observe");
        }
    };
    let status = service.run(announce, core).await?;
    if enforcement == Enforcement::Observe {
        let requests = observed.load(Relaxed);
        info!(requests, "requests that would have been refused");
    }
    Ok(status)
}
