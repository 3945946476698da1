//! Middleware that passes on only requests with a verified caller.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use spiffe::{BundleSource, SpiffeId};
use tower_layer::Layer;
use tower_service::Service;
use tracing::debug;

use super::{
    authenticator::Authenticator, caller::Caller, queue::VerificationQueue, refusal::Refusal,
};
use crate::{jwt_bundle::JwtBundle, workload::JwtSource};

/// Layer that applies [`JwtSvidService`], which authenticates each request by its JWT-SVID.
///
/// The inner service finds the verified [`Caller`] in the request's extensions. A request that a rule
/// makes public reaches it without a caller. Every other request is answered as RFC 6750 §3 says and does
/// not reach the inner service.
///
/// All clones and services of one layer share one queue of verifications, in which at most
/// [`MAX_WAITING`](super::MAX_WAITING) wait. If each core has a runtime of its own, create one layer for each core.
///
/// # Example
///
/// ```
/// use std::{convert::Infallible, sync::Arc};
///
/// use common::bearer::{
///     Allow, Authenticator, Caller, JwtBundleSet, JwtSvidLayer, Policy, Refusal,
/// };
/// use http::{Request, Response, header::WWW_AUTHENTICATE, request::Parts};
/// use spiffe::TrustDomain;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let audience = "spiffe://example.org/server".to_owned();
/// let allow = Allow::members_of(TrustDomain::new("example.org")?);
/// // This set of bundles is fixed; a service uses the live bundles of a `JwtSource`.
/// let bundles = JwtBundleSet::default();
/// let authenticator = Arc::new(Authenticator::new(bundles, Policy::new(vec![audience], allow)));
///
/// let service = JwtSvidLayer::new(authenticator)
///     .on_refusal(|refusal: &Refusal, head: &Parts| {
///         eprintln!("{} {}: {refusal}", head.method, head.uri.path());
///         refusal.response().map(|()| String::from("refused\n"))
///     })
///     .layer(service_fn(async |request: Request<()>| {
///         let caller = &request.extensions().get::<Caller>().expect("set by the layer").id;
///         Ok::<_, Infallible>(Response::new(format!("Hello, {caller}\n")))
///     }));
///
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), 401);
/// assert_eq!(response.headers()[WWW_AUTHENTICATE], r#"Bearer realm="spiffe""#);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct JwtSvidLayer<A = EmptyAnswer, B = JwtSource> {
    authenticator: Arc<Authenticator<B>>,
    queue: Arc<VerificationQueue>,
    source: Source,
    certificate: Certificate,
    enforcement: Enforcement,
    answer: A,
}

/// The effect of a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// The request is answered, and does not reach the inner service.
    #[default]
    On,
    /// The request reaches the inner service as if it were public. It has its caller if that is verified.
    /// This mode shows what a policy would refuse, and protects nothing.
    Observe,
}

/// Middleware that authenticates each request by its JWT-SVID; see [`JwtSvidLayer`].
#[derive(Debug)]
pub struct JwtSvidService<S, A = EmptyAnswer, B = JwtSource> {
    inner: S,
    layer: Arc<JwtSvidLayer<A, B>>,
}

/// Answers refused requests. Every `Fn(&Refusal, &Parts) -> Response<ResBody>` implements it.
pub trait RefusalAnswer<ResBody> {
    /// Returns the answer to the refused request with this head.
    ///
    /// [`Refusal::response`] has the status and the challenge of the answer. The text of the refusal
    /// is for the log only, because it would tell a caller about keys and clocks.
    fn answer(&self, refusal: &Refusal, head: &Parts) -> Response<ResBody>;

    /// Notes a request that is passed on although it would have been refused
    /// ([`Enforcement::Observe`]). By default it is logged at debug level.
    fn observe(&self, refusal: &Refusal, head: &Parts) {
        let status = refusal.status().as_u16();
        let reason = refusal.reason();
        debug!(status, %reason, method = %head.method, "would have been refused: {refusal}");
    }
}

/// Answers with an empty body, and logs the refusal at debug level.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyAnswer;

/// The function that returns the source of a request.
type Source = fn(&Parts) -> Option<IpAddr>;

/// The function that returns the verified SPIFFE ID of a request's connection.
type Certificate = fn(&Parts) -> Option<Arc<SpiffeId>>;

/// The fields of a request that a proxy has forwarded (RFC 9110 §7.6.3, RFC 7239).
const FORWARDED: [&str; 3] = ["via", "forwarded", "x-forwarded-for"];

impl<B> JwtSvidLayer<EmptyAnswer, B> {
    /// Returns a layer that passes on the requests that `authenticator` accepts.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator<B>>) -> Self {
        Self {
            authenticator,
            queue: Arc::default(),
            source: |_| None,
            certificate: |_| None,
            enforcement: Enforcement::On,
            answer: EmptyAnswer,
        }
    }
}

impl<A, B> JwtSvidLayer<A, B> {
    /// Uses `source` to find the network that a request came from ([`crate::source::network`]), so
    /// that waiting verifications are served source by source. By default all requests have one source, so
    /// that a caller who sends many new tokens delays the others.
    ///
    /// # Example
    ///
    /// An axum service that is served with `into_make_service_with_connect_info` has the address in the
    /// request's extensions:
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use axum::extract::ConnectInfo;
    /// use common::{bearer::JwtSvidLayer, source::network};
    ///
    /// # fn of(layer: JwtSvidLayer) -> JwtSvidLayer {
    /// layer.source(|head| {
    ///     let ConnectInfo(address) = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
    ///     Some(network(address.ip()))
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn source(mut self, source: fn(&Parts) -> Option<IpAddr>) -> Self {
        self.source = source;
        self
    }

    /// Uses `certificate` to find the SPIFFE ID of the X.509-SVID that verified a request's connection. It
    /// is the caller's if the request has no token. A token that is sent is always verified, and its
    /// subject is the caller.
    ///
    /// A request that a proxy has forwarded needs a token, because the certificate is that of the proxy.
    #[must_use]
    pub fn certificate(mut self, certificate: fn(&Parts) -> Option<Arc<SpiffeId>>) -> Self {
        self.certificate = certificate;
        self
    }

    /// Sets the effect of refusals.
    #[must_use]
    pub fn enforcement(mut self, enforcement: Enforcement) -> Self {
        self.enforcement = enforcement;
        self
    }

    /// Answers refused requests with `answer`.
    #[must_use]
    pub fn on_refusal<N>(self, answer: N) -> JwtSvidLayer<N, B> {
        let Self {
            authenticator,
            queue,
            source,
            certificate,
            enforcement,
            ..
        } = self;
        JwtSvidLayer {
            authenticator,
            queue,
            source,
            certificate,
            enforcement,
            answer,
        }
    }
}

impl<S, A: Clone, B> Layer<S> for JwtSvidLayer<A, B> {
    type Service = JwtSvidService<S, A, B>;

    fn layer(&self, inner: S) -> Self::Service {
        JwtSvidService {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

impl<S, A, B, ReqBody, ResBody> Service<Request<ReqBody>> for JwtSvidService<S, A, B>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    A: RefusalAnswer<ResBody> + Send + Sync + 'static,
    B: BundleSource<Item = JwtBundle> + Send + Sync + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
    ReqBody: Send + 'static,
    ResBody: Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResBody>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let layer = Arc::clone(&self.layer);
        // `poll_ready` was called on `self.inner` and not on the clone, so that `self.inner` has to
        // serve this request.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let caller = match layer.authenticate(&head).await {
                Ok(caller) => caller,
                Err(refusal) if layer.enforcement == Enforcement::Observe => {
                    layer.answer.observe(&refusal, &head);
                    refusal.verified_caller().cloned()
                }
                Err(refusal) => return Ok(layer.answer.answer(&refusal, &head)),
            };
            if let Some(caller) = caller {
                head.extensions.insert(caller);
            }
            inner.call(Request::from_parts(head, body)).await
        })
    }
}

impl<A, B> JwtSvidLayer<A, B>
where
    B: BundleSource<Item = JwtBundle>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    async fn authenticate(&self, head: &Parts) -> Result<Option<Caller>, Refusal> {
        let source = (self.source)(head).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let authenticator = &self.authenticator;
        let decided = match authenticator.decide_queued(head, source, &self.queue).await {
            Err(Refusal::NoCredentials) if !is_forwarded(head) => match (self.certificate)(head) {
                Some(id) => authenticator.authorize_certificate(head, id),
                None => Err(Refusal::NoCredentials),
            },
            decided => decided,
        };
        authenticator.counts().note(&decided);
        decided
    }
}

fn is_forwarded(head: &Parts) -> bool {
    FORWARDED
        .iter()
        .any(|field| head.headers.contains_key(*field))
}

impl<A: Clone, B> Clone for JwtSvidLayer<A, B> {
    fn clone(&self) -> Self {
        Self {
            authenticator: Arc::clone(&self.authenticator),
            queue: Arc::clone(&self.queue),
            source: self.source,
            certificate: self.certificate,
            enforcement: self.enforcement,
            answer: self.answer.clone(),
        }
    }
}

impl<S: Clone, A, B> Clone for JwtSvidService<S, A, B> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: Arc::clone(&self.layer),
        }
    }
}

impl<ResBody: Default> RefusalAnswer<ResBody> for EmptyAnswer {
    fn answer(&self, refusal: &Refusal, _: &Parts) -> Response<ResBody> {
        let (status, reason) = (refusal.status().as_u16(), refusal.reason());
        debug!(status, %reason, "{refusal}");
        refusal.response().map(|()| ResBody::default())
    }
}

impl<F, ResBody> RefusalAnswer<ResBody> for F
where
    F: Fn(&Refusal, &Parts) -> Response<ResBody>,
{
    fn answer(&self, refusal: &Refusal, head: &Parts) -> Response<ResBody> {
        self(refusal, head)
    }
}
