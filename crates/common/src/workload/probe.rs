//! The wait at start-up for the first identity.
//!
//! The sources retry too, but their error at the deadline has no reason. A plain fetch before them
//! knows the reason, and finds an agent that starts late within a second.

use std::time::Duration;

use spiffe::WorkloadApiClient;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::info;

use super::{
    address::Address,
    error::{Error, Reason},
};
use crate::backoff::Backoff;

/// A function that is called with the Unix user ID of the agent's process.
pub type AgentHook = fn(u32);

/// The pauses between attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Waits until the Workload API issues an X.509-SVID to this process.
///
/// # Errors
/// Fails with the reason of the last attempt when `deadline` has passed. A reason that does not pass with
/// time fails at once.
pub(super) async fn wait_for_identity(
    address: &Address,
    on_agent: Option<AgentHook>,
    deadline: Instant,
) -> Result<(), Error> {
    let mut failures = 0;
    let mut logged = None;
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
        if logged.as_ref() != Some(&text) {
            info!(%address, reason = text, "waiting for an identity from the Workload API");
            logged = Some(text);
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
            // Opens the socket directly first, because gRPC hides the error of the kernel.
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
