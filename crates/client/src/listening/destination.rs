//! Where the requests to a host go, and the token that they get.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::anyhow;
use common::throttle::LogQuotas;
use common::workload::{WorkloadApi, tokens::TokenSource};
use forward::{
    Fields, Forwarder, LoggedForwarder,
    outbound::{Security, Upstream},
};
use http::header::AUTHORIZATION;
use tokio::time::{Instant, sleep};

use crate::route::Route;

/// A route with all that its requests need. All cores share it.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) route: Route,
    pub(super) tokens: TokenSource,
    upstream: Upstream,
    security: Security,
}

/// The pause between two looks for a first token.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Destination {
    /// Starts to fetch the token of a route.
    pub(super) fn new(
        route: Route,
        upstream: Upstream,
        security: Security,
        workload_api: &WorkloadApi,
    ) -> Arc<Self> {
        let audiences = route.audiences.clone();
        Arc::new(Self {
            tokens: TokenSource::new(workload_api.clone(), audiences, None),
            route,
            upstream,
            security,
        })
    }

    /// Returns the forwarder of one core.
    pub(super) fn forwarder(&self, quotas: &Arc<LogQuotas>) -> LoggedForwarder {
        let fields = Fields {
            keeps_host: false,
            removed: [AUTHORIZATION].into(),
            hides_caller: true,
        };
        let forwarder = Forwarder::new(self.upstream.clone(), self.security.clone(), fields);
        LoggedForwarder::new(forwarder, Arc::clone(quotas))
    }

    /// Waits for the first token.
    ///
    /// # Errors
    /// Fails with the last reason when none is issued before `deadline`.
    pub(super) async fn first_token(&self, deadline: Instant) -> anyhow::Result<()> {
        loop {
            match self.tokens.token().await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let audiences = self.route.audiences.join(", ");
                    return Err(anyhow!("no JWT-SVID for {audiences}: {error}"));
                }
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.route.host.as_deref().unwrap_or("*");
        write!(f, "{host}={}", self.route.url)
    }
}
