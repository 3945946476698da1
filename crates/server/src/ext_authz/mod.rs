//! Answers the checks of a gateway: Envoy's external authorization (ext_authz, version 3) over gRPC.
//!
//! The gateway asks about each request before it forwards it. The answer allows the request, and gives it
//! the caller's SPIFFE ID, or has the refusal that the caller gets.
//!
//! - [`config`]: the flags
//! - `check`: the head that a check asks about, and the answer
//! - `message`: gRPC
//! - [`pb`]: the messages, which `crates/workload-api/generate` writes

mod check;
pub mod config;
mod message;
/// The messages of a check.
#[expect(missing_docs, reason = "generated code")]
pub mod pb;

use std::{net::IpAddr, process::ExitCode, sync::Arc};

use anyhow::anyhow;
use common::{
    bearer::{Authenticator, VerificationQueue},
    source,
    throttle::LogQuotas,
};
use http::{Method, Request, Response, StatusCode};
use process::{
    listen::{Inherited, ListenAddress},
    service::Service,
};
use serve::{
    Handler, Received, Shared,
    body::{self, Body},
    grpc, listen,
    peer::Peer,
};
use tracing::{debug, info, warn};

use self::{
    check::Fields,
    pb::{CheckRequest, CheckResponse},
};
use crate::config::Config;

/// The path of the call.
const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Answers checks on one core.
#[derive(Clone, Debug)]
struct CheckHandler {
    authenticator: Arc<Authenticator>,
    queue: Arc<VerificationQueue>,
    fields: Fields,
    quotas: Arc<LogQuotas>,
}

/// Connects to the Workload API, and answers checks on `address` until a signal arrives.
///
/// # Errors
/// Fails when no identity is issued, or when there is nothing to listen on.
pub(crate) async fn start(
    config: &Config,
    address: &ListenAddress,
    inherited: Inherited,
) -> anyhow::Result<ExitCode> {
    let service = Service::claim(&config.serve, inherited, address);
    // The texts are about the flag that every binary has.
    let service = service
        .map_err(|error| anyhow!(format!("{error:#}").replace("--listen", "--ext-authz")))?;
    config.serve.raise_open_files_limit(&[]);
    let workload_api = config.identity.workload_api(config.serve.startup_timeout);
    let Some(identity) = service.identity(workload_api.identity()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let (own, authenticator) = crate::authenticator(config, &identity)?;
    let fields = Fields {
        caller_header: config.application.caller_header.clone(),
        forwards_authorization: config.application.forward_authorization,
    };
    let (quotas, shared) = (Arc::default(), Shared::new(config.serve.limits()));
    let announce = |cores, addresses: &str| {
        info!(spiffe_id = %own, cores, "listening on {addresses} for checks of a gateway (ext_authz)");
    };
    let core = move |listener, shutdown| {
        let handler = CheckHandler {
            authenticator: Arc::clone(&authenticator),
            queue: Arc::default(),
            fields: fields.clone(),
            quotas: Arc::clone(&quotas),
        };
        let security = listen::Security::Plaintext;
        serve::serve(listener, security, handler, shared.clone(), shutdown)
    };
    service.run(announce, core).await
}

impl Handler for CheckHandler {
    async fn handle(&self, request: Request<Received>, peer: &Peer) -> Response<Body> {
        if request.uri().path() != PATH {
            return body::status(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::POST || !grpc::is_call(&request) {
            return body::status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        match message::read(request.into_body()).await {
            Ok(check) => message::answer(&self.check(&check, peer).await),
            Err(status) => {
                debug!(gateway = %peer, status = status.as_u16(), "a call that is not a check");
                body::status(status)
            }
        }
    }
}

impl CheckHandler {
    async fn check(&self, check: &CheckRequest, gateway: &Peer) -> CheckResponse {
        let caller = check::source(check.attributes.as_ref());
        let source = caller.map_or_else(|| gateway.source(), source::network);
        let peer = caller.map_or_else(|| gateway.to_string(), |caller| caller.to_string());
        let head = match check::head(check) {
            Ok(head) => head,
            Err(status) => {
                let reason = "Malformed check: it has no request that can be read";
                self.log(status, source, &peer, reason);
                return check::rejected(status);
            }
        };
        let authenticator = &self.authenticator;
        let authenticated = authenticator.authenticate_queued(&head, source, &self.queue);
        match authenticated.await {
            Ok(caller) => {
                crate::application::log(&head.method, &head.uri, Some(&caller), &peer);
                self.fields.allowed(&caller)
            }
            Err(refusal) => {
                let reason = crate::log_text(&refusal);
                self.log(refusal.status(), source, &peer, &reason);
                check::refused(&refusal)
            }
        }
    }

    /// Logs a request that is not allowed, within the quota of its source.
    fn log(&self, status: StatusCode, source: IpAddr, peer: &str, reason: &str) {
        let quota = match status.is_server_error() {
            true => &self.quotas.failed,
            false => &self.quotas.refused,
        };
        if let Some(left_out) = quota.take(source) {
            warn!(%peer, status = status.as_u16(), left_out, "{reason}");
        }
    }
}
