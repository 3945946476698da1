//! Answers the checks of a gateway: Envoy's external authorization (ext_authz, version 3) over gRPC.
//!
//! The gateway asks about each request before it forwards it. The answer allows the request, and gives it
//! the caller's SPIFFE ID, or has the refusal that the caller gets. [`JwtSvidLayer`] decides, as it does
//! for a request that the server gets itself.
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

use std::{convert::Infallible, process::ExitCode, sync::Arc};

use common::{
    bearer::{Authenticator, Caller, Enforcement, JwtSvidLayer, Refusal, RefusalAnswer, Rules},
    reason::Reason,
    throttle::{LogQuotas, RefusedRequest},
    workload::JwtSource,
};
use http::{Method, Request, Response, StatusCode, request::Parts};
use process::{
    cli,
    listen::{Inherited, ListenFlag},
    policy::PolicyFile,
    service::{Claim, Service},
};
use serve::{
    Handler, Received, Shared,
    access::Access,
    body::{self, Body},
    grpc,
    listen::{Listener, Security},
    peer::Peer,
    shutdown::Shutdown,
    spans::Recorded,
};
use spiffe::SpiffeId;
use tower::{Layer, ServiceExt, service_fn};
use tower_service::Service as TowerService;
use tracing::{debug, warn};

use self::{
    check::Fields,
    pb::{CheckRequest, CheckResponse},
};
use crate::{
    application,
    config::{Config, ROLE},
    cores::{StartLog, serve_on_cores},
    policy::LivePolicy,
    refusals::{self, Refusals},
};

/// The path of the call.
const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The parts that all cores share.
#[derive(Clone, Debug)]
struct Checks {
    authenticator: Arc<Authenticator>,
    enforcement: Enforcement,
    fields: Fields,
    refusals: Refusals,
    shared: Shared,
}

/// Answers checks on one core.
#[derive(Clone, Debug)]
struct CheckHandler<S> {
    /// Decides about the head of a request.
    decides: S,
    quotas: Arc<LogQuotas>,
}

/// Logs refusals as for a request of our own, and returns the answer for the gateway.
#[derive(Clone, Debug)]
struct CheckRefusals(Refusals);

/// Connects to the Workload API, and answers checks on the address of `listen` until a signal arrives.
///
/// # Errors
/// Fails when no identity is issued, or when there is nothing to listen on.
pub(crate) async fn start(
    config: &Config,
    listen: ListenFlag<'_>,
    inherited: Inherited,
) -> anyhow::Result<ExitCode> {
    let policy = match checked(config, listen) {
        Ok(policy) => LivePolicy::begin(policy)?,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    let claim = Claim {
        role: ROLE,
        listen,
        others: &[],
        recorded: Recorded::Verified,
    };
    let service = Service::claim(&config.serve, inherited, claim)?;
    let workload_api = service.follow_workload_api(&config.identity);
    let Some(identity) = service.identity(workload_api.identity()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    let checks = Checks::new(config, &service, identity.jwt, &own, policy);
    let metrics = service.admin().metrics();
    metrics.callers(checks.authenticator.counts());
    let log = StartLog {
        spiffe_id: &own,
        application: None,
        purpose: " for checks of a gateway (ext_authz)",
        enforcement: checks.enforcement,
        observed: Arc::clone(&checks.refusals.observed),
    };
    let core = move |listener, shutdown| run(listener, checks.clone(), shutdown);
    serve_on_cores(service, log, core).await
}

/// Checks the flags that are used together, and reads the policy file.
///
/// # Errors
/// Fails with one line about the first flag that can't be used.
fn checked(config: &Config, listen: ListenFlag<'_>) -> Result<Option<(PolicyFile, Rules)>, String> {
    config.serve.check(Some(listen), false)?;
    config.policy.open()
}

impl Checks {
    /// Returns the checks of the server whose SPIFFE ID is `own`, and follows their policy.
    fn new(
        config: &Config,
        service: &Service,
        bundles: JwtSource,
        own: &SpiffeId,
        policy: LivePolicy,
    ) -> Self {
        let shared = service.shared();
        let authenticator = config.follow_policy(policy, bundles, own, service.manager());
        Self {
            authenticator: Arc::new(authenticator),
            enforcement: config.policy.enforcement(),
            fields: Fields {
                caller_header: config.application.caller_header.clone(),
                forwards_authorization: config.application.forward_authorization,
            },
            refusals: Refusals {
                quotas: Arc::clone(shared.quotas()),
                observed: Arc::default(),
            },
            shared,
        }
    }
}

/// Answers the checks that come to `listener` until `shutdown`.
async fn run(listener: Listener, checks: Checks, shutdown: Shutdown) {
    let Checks {
        authenticator,
        enforcement,
        fields,
        refusals,
        shared,
    } = checks;
    let quotas = Arc::clone(&refusals.quotas);
    let logs_beginning = shared.access_log().is_none();
    let layer = JwtSvidLayer::new(authenticator)
        .source(|head| head.extensions.get::<Peer>().map(Peer::source))
        .enforcement(enforcement)
        .on_refusal(CheckRefusals(refusals));
    let decides = layer.layer(service_fn(move |request: Request<()>| {
        let caller = request.extensions().get::<Caller>();
        if let Some(access) = request.extensions().get::<Access>() {
            access.verified(caller.map(|caller| &caller.id));
        }
        if let Some(peer) = request.extensions().get::<Peer>()
            && logs_beginning
        {
            application::log(&request, caller, peer);
        }
        let allowed = fields.allowed(caller, request.extensions().get());
        async move { Ok(Response::new(allowed)) }
    }));
    let handler = CheckHandler { decides, quotas };
    serve::serve(listener, Security::Plaintext, handler, shared, shutdown).await;
}

impl<S> Handler for CheckHandler<S>
where
    S: TowerService<Request<()>, Response = Response<CheckResponse>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static,
    S::Future: Send,
{
    async fn handle(&self, mut request: Request<Received>, peer: &Peer) -> Response<Body> {
        if request.uri().path() != PATH {
            let response = body::status(StatusCode::NOT_FOUND);
            return body::because(Reason::NotACheck, response);
        }
        if request.method() != Method::POST || !grpc::is_call(&request) {
            let response = body::status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            return body::because(Reason::NotACheck, response);
        }
        let access = request.extensions_mut().remove();
        match message::read(request.into_body()).await {
            Ok(check) => {
                let (head, answer) = self.check(&check, peer, access).await.into_parts();
                let mut response = message::answer(&answer);
                *response.extensions_mut() = head.extensions;
                response
            }
            Err(status) => {
                let reason = Reason::NotACheck;
                debug!(gateway = %peer, status = status.as_u16(), %reason, "a call that is not a check");
                body::because(reason, body::status(status))
            }
        }
    }
}

impl<S> CheckHandler<S>
where
    S: TowerService<Request<()>, Response = Response<CheckResponse>, Error = Infallible> + Clone,
{
    /// Returns the answer about a request of `gateway`.
    async fn check(
        &self,
        check: &CheckRequest,
        gateway: &Peer,
        access: Option<Access>,
    ) -> Response<CheckResponse> {
        let caller = check::source(check.attributes.as_ref()).map(Peer::from);
        let caller = caller.unwrap_or_else(|| gateway.clone());
        let Ok(mut head) = check::head(check) else {
            let (reason, fault) = (Reason::MalformedCheck, "it has no request that can be read");
            let status = StatusCode::BAD_REQUEST;
            let noted = self.quotas.note(status, caller.source(), || {
                RefusedRequest::new(status, reason, fault, &caller)
            });
            if let Some(left_out) = noted {
                warn!(%gateway, peer = %caller, %reason, left_out, "Malformed check: {fault}");
            }
            return body::because(reason, Response::new(check::rejected()));
        };
        if let Some(access) = access {
            access.checks(&head, &caller);
            head.extensions.insert(access);
        }
        head.extensions.insert(caller);
        let decides = self.decides.clone();
        let Ok(decided) = decides.oneshot(Request::from_parts(head, ())).await;
        decided
    }
}

impl RefusalAnswer<CheckResponse> for CheckRefusals {
    fn answer(&self, refusal: &Refusal, head: &Parts) -> Response<CheckResponse> {
        refusals::note(refusal, head);
        self.0.log(refusal, head, None);
        let (answer, ()) = refusal.response().into_parts();
        let response = Response::new(check::denied(answer.status, &answer.headers));
        body::because(refusal.reason(), response)
    }

    fn observe(&self, refusal: &Refusal, head: &Parts) {
        self.0.observed(refusal, head);
    }
}
