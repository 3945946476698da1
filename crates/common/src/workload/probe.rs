//! Start-up: wait until the Workload API issues this process an identity.
//!
//! The sources retry by themselves, but at the deadline they only know that time ran out. One plain
//! fetch before them knows why, and notices an agent that starts late within a second.

use std::time::Duration;

use spiffe::WorkloadApiClient;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::info;

use super::{Address, AgentHook, Error, Reason};
use crate::backoff::Backoff;

/// The pauses between attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Returns when an X.509-SVID can be had.
///
/// # Errors
/// The reason of the last attempt once `deadline` has passed, or at once one that waiting won't mend.
pub(super) async fn wait_for_identity(
    address: &Address,
    on_agent: Option<AgentHook>,
    deadline: Instant,
) -> Result<(), Error> {
    let mut failures = 0;
    let mut said = None;
    loop {
        let Err(reason) = attempt(address, on_agent, deadline).await else {
            return Ok(());
        };
        failures += 1;
        let next = Instant::now() + BACKOFF.pause(failures);
        if !reason.is_transient() || next >= deadline {
            return Err(Error::new(address.clone(), reason));
        }
        let text = reason.to_string();
        if said.as_ref() != Some(&text) {
            info!(%address, reason = text, "waiting for an identity from the Workload API");
            said = Some(text);
        }
        sleep_until(next).await;
    }
}

async fn attempt(
    address: &Address,
    on_agent: Option<AgentHook>,
    deadline: Instant,
) -> Result<(), Reason> {
    let fetch = async {
        if let Address::Unix(path) = address {
            // Opened once directly, because gRPC hides which of the errors it was.
            let agent = UnixStream::connect(path)
                .await
                .map_err(|error| Reason::from_open(path, error))?;
            if let (Some(hook), Ok(credentials)) = (on_agent, agent.peer_cred()) {
                hook(credentials.uid());
            }
        }
        let client = WorkloadApiClient::connect(address.endpoint()).await?;
        client.fetch_x509_svid().await?;
        Ok(())
    };
    timeout_at(deadline, fetch)
        .await
        .unwrap_or(Err(Reason::NoAnswer))
}
