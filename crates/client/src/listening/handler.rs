//! One request of an application: its route, its token, and the answer.

use std::{fmt::Display, sync::Arc};

use common::{reason::Reason, sanitize::Sanitized, throttle::LogQuotas};
use forward::{Checked, LoggedForwarder, log_failure};
use futures_util::future::try_join_all;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION,
};
use process::admin::Admin;
use serve::{
    Handler, Received, Shared,
    body::{self, Body},
    peer::Peer,
    trace::TraceContext,
};
use spiffe::JwtSvid;
use tokio::time::Instant;
use tracing::info;

use super::destination::Destination;
use crate::{authorize, challenge::refuses_token};

/// The destinations of all requests. All cores share them.
#[derive(Clone, Debug)]
pub(super) struct ListenHandler {
    destinations: Arc<[Destination]>,
    replaces_authorization: bool,
    /// Set if a request that is forwarded is logged at its beginning.
    logs_beginning: bool,
    quotas: Arc<LogQuotas>,
}

/// The handler of one core, which has its own upstream connections.
#[derive(Clone, Debug)]
pub(super) struct CoreHandler {
    shared: ListenHandler,
    forwarders: Arc<[LoggedForwarder]>,
}

impl ListenHandler {
    pub(super) fn new(
        destinations: Vec<Destination>,
        replaces_authorization: bool,
        shared: &Shared,
    ) -> Self {
        Self {
            destinations: destinations.into(),
            replaces_authorization,
            logs_beginning: shared.access_log().is_none(),
            quotas: Arc::clone(shared.quotas()),
        }
    }

    /// Adds the state of the destinations to what operators see.
    pub(super) fn show_in(&self, admin: &Admin) {
        self.destinations()
            .for_each(|one| one.add_conditions(admin));
    }

    pub(super) fn destinations(&self) -> impl Iterator<Item = &Destination> {
        self.destinations.iter()
    }

    /// Waits until each destination has a token.
    ///
    /// # Errors
    /// Fails when one has none before `deadline`.
    pub(super) async fn first_tokens(&self, deadline: Instant) -> anyhow::Result<()> {
        let first = self.destinations().map(|one| one.first_token(deadline));
        try_join_all(first).await.map(drop)
    }

    /// Returns the handler of one core.
    pub(super) fn of_core(&self) -> CoreHandler {
        let forwarders = self.destinations().map(|one| one.forwarder(&self.quotas));
        CoreHandler {
            forwarders: forwarders.collect(),
            shared: self.clone(),
        }
    }
}

impl Handler for CoreHandler {
    async fn handle(&self, request: Request<Received>, peer: &Peer) -> Response<Body> {
        match Checked::plaintext(request) {
            Ok(request) => self.route(request, peer).await,
            Err(rejected) => forward::reject(&self.shared.quotas, &rejected, peer),
        }
    }
}

impl CoreHandler {
    /// Sends a request to the destination of its host.
    async fn route(&self, request: Checked, peer: &Peer) -> Response<Body> {
        let host = request.host().unwrap_or_default();
        let destinations = self.shared.destinations().zip(self.forwarders.iter());
        let mut for_host = destinations.filter(|(one, _)| one.route.is_for(host));
        let Some((destination, forwarder)) = for_host.next() else {
            let host = Sanitized(host);
            let text = format!("no route for the host {host}; add one: --route '{host}=https://…'");
            return self.refuse(
                &request,
                peer,
                StatusCode::FORBIDDEN,
                Reason::NoRoute,
                &text,
            );
        };
        if request.headers().contains_key(AUTHORIZATION) && !self.shared.replaces_authorization {
            let text = "the application sends an Authorization of its own, in whose place the JWT-SVID goes; remove it, or start the client with --replace-authorization";
            return self.refuse(
                &request,
                peer,
                StatusCode::BAD_REQUEST,
                Reason::OwnAuthorization,
                text,
            );
        }
        if self.shared.logs_beginning {
            let method = Sanitized(request.method().as_str());
            let path = Sanitized(request.path());
            info!(%peer, route = %destination, "{method} {path}");
        }
        self.forward(request, peer, destination, forwarder).await
    }

    async fn forward(
        &self,
        request: Checked,
        peer: &Peer,
        destination: &Destination,
        forwarder: &LoggedForwarder,
    ) -> Response<Body> {
        let tokens = &destination.tokens;
        let token = match tokens.token().await {
            Ok(token) => token,
            Err(error) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                let fault = format_args!("no JWT-SVID for {destination}: {error}");
                self.log_failure(&request, peer, status, Reason::NoJwtSvid, fault);
                return body::because(Reason::NoJwtSvid, body::status(status));
            }
        };
        let renew = |status: StatusCode, headers: &HeaderMap| {
            refuses_token(status, headers).then(|| {
                let refused = Arc::clone(&token);
                async move { bearer(&*tokens.renewed(&refused).await?) }
            })
        };
        forwarder
            .forward_renewing(request, peer, bearer(&token), renew)
            .await
    }

    /// Answers a request in place of the upstream. The application gets the reason, because it is on this machine.
    fn refuse(
        &self,
        request: &Checked,
        peer: &Peer,
        status: StatusCode,
        reason: Reason,
        text: &str,
    ) -> Response<Body> {
        self.log_failure(request, peer, status, reason, text);
        body::because(reason, body::text(status, format!("{text}\n")))
    }

    fn log_failure(
        &self,
        request: &Checked,
        peer: &Peer,
        status: StatusCode,
        reason: Reason,
        fault: impl Display,
    ) {
        let quotas = &self.shared.quotas;
        let trace = TraceContext::in_fields(request.headers());
        log_failure(quotas, peer, trace.as_ref(), status, reason, fault);
    }
}

/// Returns the field with the token.
fn bearer(token: &JwtSvid) -> Option<(HeaderName, HeaderValue)> {
    let value = authorize::bearer(token).ok()?;
    Some((AUTHORIZATION, value))
}
