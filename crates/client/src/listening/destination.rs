//! The destination of requests to a host: its connections, and the token that they get.

use std::{fmt, sync::Arc};

use common::{
    throttle::LogQuotas,
    workload::{WorkloadApi, tokens::TokenSource},
};
use forward::{
    FieldPolicy, Forwarder, LoggedForwarder,
    outbound::{Security, Upstream},
};
use http::header::AUTHORIZATION;
use process::admin::Admin;
use tokio::time::{Instant, timeout_at};

use crate::{identity::no_token, route::Route};

/// A route with all that its requests need. All cores share it.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) route: Route,
    pub(super) tokens: TokenSource,
    upstream: Upstream,
    security: Security,
}

impl Destination {
    /// Starts to fetch the token of a route.
    pub(super) fn new(
        route: Route,
        upstream: Upstream,
        security: Security,
        workload_api: &WorkloadApi,
    ) -> Self {
        let audiences = route.audiences.clone();
        Self {
            tokens: TokenSource::new(workload_api.clone(), audiences, None),
            route,
            upstream,
            security,
        }
    }

    /// Returns the forwarder of one core.
    pub(super) fn forwarder(&self, quotas: &Arc<LogQuotas>) -> LoggedForwarder {
        let fields = FieldPolicy {
            keeps_host: false,
            removed: [AUTHORIZATION].into(),
            hides_caller: true,
        };
        let forwarder = Forwarder::new(self.upstream.clone(), self.security.clone(), fields);
        LoggedForwarder::new(forwarder, Arc::clone(quotas))
    }

    /// Adds the route's token and endpoints to what operators see.
    pub(super) fn add_conditions(&self, admin: &Admin) {
        let host = self.route.host.as_deref();
        admin.follow_token(host, &self.route.audiences, self.tokens.monitor());
        admin.follow_upstream(host, self.upstream.status().clone());
    }

    /// Waits for the first token.
    ///
    /// # Errors
    /// Fails with the last reason when none is issued before `deadline`.
    pub(super) async fn first_token(&self, deadline: Instant) -> anyhow::Result<()> {
        match timeout_at(deadline, self.tokens.next(None)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(no_token(&self.tokens, &self.route.audiences).await),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.route.host.as_deref().unwrap_or("*");
        write!(f, "{host}={}", self.route.url)
    }
}
