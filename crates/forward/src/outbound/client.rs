//! Sends requests to an upstream: checks a connection out, sends, and sends again where that is safe.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use http::{
    Request, Response, StatusCode, Uri, Version, header::HOST, request::Parts, uri::Authority,
};
use tokio::task::JoinSet;

use super::{
    arriving::Arriving,
    body_fault::BodyFault,
    caller::Caller,
    checkout::Checkout,
    endpoints::Failed,
    error::Error,
    origin::At,
    pool::Pool,
    prepared::{Prepared, RequestBody, Speech},
    response::ResponseBody,
    retry::{self, Failure},
    security::Security,
    tunnel::Switched,
    upload::Upload,
    upstream::Upstream,
};

/// Sends requests to one upstream.
pub struct Client<B> {
    upstream: Upstream,
    pool: Pool<B>,
    /// The task that drops connections, which ends with the client.
    _upkeep: JoinSet<()>,
}

/// A request whose body was read, if it is small.
pub(crate) struct PreparedRequest<B> {
    pub(crate) head: Parts,
    body: Prepared<B>,
    speech: Speech,
}

/// An answer whose head may still be rejected.
pub(crate) struct Answered<B> {
    response: Response<Arriving>,
    checkout: Checkout<B>,
    /// Set if all of the request's body was sent. An upstream that has not read it may close its
    /// connection after the answer.
    is_reusable: bool,
}

/// A request without an answer.
struct Unanswered<B> {
    error: Error,
    again: Option<Again<B>>,
}

/// A request that may be sent again.
struct Again<B> {
    head: Parts,
    body: Prepared<B>,
    failed: Failed,
}

impl<B: RequestBody> Client<B> {
    /// Returns a client of `upstream`, whose connections are secured by `security`.
    ///
    /// # Panics
    /// Panics outside a tokio runtime, or if the upstream has no URL.
    #[must_use]
    pub fn new(upstream: Upstream, security: Security) -> Self {
        assert!(!upstream.urls.is_empty(), "an upstream has a URL");
        let pool = Pool::new(&upstream, security.clone());
        let mut upkeep = JoinSet::new();
        upkeep.spawn(pool.upkeep(security));
        Self {
            upstream,
            pool,
            _upkeep: upkeep,
        }
    }

    /// Sends one request. Scheme and authority of its URI are replaced by those of the upstream. A
    /// `Host` in the request replaces that of the upstream. Returns the answer with its body still
    /// streaming.
    ///
    /// # Errors
    /// Fails when there is no answer.
    pub async fn request(&self, request: Request<B>) -> Result<Response<ResponseBody>, Error> {
        let caller = Caller {
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            eviction: Arc::default(),
        };
        let answered = self.send(Self::prepare(request).await?, &caller).await?;
        Ok(answered.accept())
    }

    /// Reads the request's body if it is small.
    ///
    /// # Errors
    /// Fails when the body fails.
    pub(crate) async fn prepare(request: Request<B>) -> Result<PreparedRequest<B>, Error> {
        let (mut head, body) = request.into_parts();
        let body = Prepared::read(body)
            .await
            .map_err(|error| Error::RequestBody(BodyFault::of(&*error)))?;
        body.frame(&mut head.headers);
        let speech = Speech::of(&head);
        Ok(PreparedRequest { head, body, speech })
    }

    /// Returns a request that asks for a WebSocket. It has no body, and gets a connection for itself.
    pub(crate) fn upgrade(head: Parts) -> PreparedRequest<B> {
        PreparedRequest {
            head,
            body: Prepared::none(),
            speech: Speech::Http1,
        }
    }

    /// Sends a prepared request, and sends it again where that is safe.
    ///
    /// # Errors
    /// Fails when there is no answer.
    pub(crate) async fn send(
        &self,
        request: PreparedRequest<B>,
        caller: &Caller,
    ) -> Result<Answered<B>, Error> {
        let PreparedRequest {
            mut head,
            mut body,
            speech,
        } = request;
        let patience = match speech {
            Speech::Http2 => self.upstream.timeouts.call,
            _ => self.upstream.timeouts.response,
        };
        let mut failed = None;
        loop {
            let need = body.need(&head.method, speech);
            let checkout = self.pool.checkout(need, caller, failed.as_ref());
            let checkout = checkout.await?;
            self.upstream.counts().requests.add(1);
            let exchange = self.exchange(checkout, head, body, failed.is_none(), patience);
            let unanswered = match exchange.await {
                Ok(answered) => return Ok(answered),
                Err(unanswered) => unanswered,
            };
            let again = unanswered.again.ok_or(unanswered.error)?;
            self.upstream.counts().retries.add(1);
            (head, body, failed) = (again.head, again.body, Some(again.failed));
        }
    }

    /// Sends a request over its connection and waits for the head of the answer.
    async fn exchange(
        &self,
        mut checkout: Checkout<B>,
        mut head: Parts,
        body: Prepared<B>,
        is_first: bool,
        patience: Duration,
    ) -> Result<Answered<B>, Unanswered<B>> {
        let is_repeatable = retry::is_repeatable(&head.method, body.is_some());
        // Another attempt may have another address.
        let copy = is_first.then(|| head.clone());
        address(&mut head, &checkout);
        let (upload, body) = Upload::of(body);
        let sent = tokio::select! {
            sent = checkout.send(Request::from_parts(head, body)) => sent,
            () = upload.stalled(patience) => {
                return Err(checkout.time_out().into());
            }
        };
        match sent {
            Ok(response) => Ok(Answered {
                response,
                checkout,
                is_reusable: upload.is_sent(),
            }),
            Err(failure) => {
                let is_allowed = retry::is_allowed(failure.progress(), is_repeatable);
                let again = copy.filter(|_| is_allowed);
                Err(Unanswered::new(&failure, checkout, &upload, again))
            }
        }
    }
}

impl<B> PreparedRequest<B> {
    /// Returns a copy of a request whose body was read.
    pub(crate) fn copy(&self) -> Option<Self> {
        let body = self.body.copy()?;
        let head = self.head.clone();
        let speech = self.speech;
        Some(Self { head, body, speech })
    }
}

impl<B: RequestBody> Unanswered<B> {
    /// Takes back the body of a request that failed on its connection. The request may be sent again if
    /// there is a `head` for it and the body is whole.
    fn new(
        failure: &Failure,
        checkout: Checkout<B>,
        upload: &Upload<B>,
        head: Option<Parts>,
    ) -> Self {
        if let Some(fault) = upload.failure() {
            return Error::RequestBody(fault).into();
        }
        let error = Error::unanswered(failure, checkout.at());
        let again = head.zip(upload.taken_back());
        let again = again.map(|(head, body)| Again {
            head,
            body,
            failed: checkout.fail(),
        });
        Self { error, again }
    }
}

impl<B: RequestBody> Answered<B> {
    /// Returns the answer, to check its head.
    pub(crate) fn response(&self) -> &Response<Arriving> {
        &self.response
    }

    pub(crate) fn accept(self) -> Response<ResponseBody> {
        let response = self.checkout.complete(self.response, self.is_reusable);
        match response.status() {
            // These have no body, however their streams end (RFC 9110 §6.4.1).
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {
                response.map(ResponseBody::into_empty)
            }
            _ => response,
        }
    }

    /// Accepts an answer that switches protocols. Returns its head and its connection.
    pub(crate) fn switch(self) -> (Response<()>, Switched) {
        let (mut response, counted) = self.checkout.switch(self.response);
        let on = hyper::upgrade::on(&mut response);
        (response.map(drop), Switched::new(on, counted))
    }

    /// Returns the name of the endpoint in errors.
    pub(crate) fn at(&self) -> At {
        self.checkout.at()
    }

    /// Rejects the answer. New requests then use another connection.
    pub(crate) fn reject(self, reason: &str) -> Error {
        let at = self.checkout.at();
        self.checkout.discard(self.response);
        Error::Failed(at, reason.to_owned())
    }
}

impl<B> fmt::Debug for Client<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.upstream).finish()
    }
}

impl<B> From<Error> for Unanswered<B> {
    fn from(error: Error) -> Self {
        Self { error, again: None }
    }
}

/// Addresses a request to the endpoint of its connection: over HTTP/2 in its URI, over HTTP/1.1 in
/// `Host`. A request that has a `Host` keeps it.
fn address<B: RequestBody>(head: &mut Parts, checkout: &Checkout<B>) {
    let origin = checkout.origin();
    // A request marked HTTP/2 would be refused on HTTP/1.1.
    head.version = Version::HTTP_11;
    let path = head.uri.path_and_query().cloned();
    if !checkout.is_http2() {
        let host = || origin.host_field.clone();
        head.headers.entry(HOST).or_insert_with(host);
        head.uri = path.map(Uri::from).unwrap_or_default();
        return;
    }
    let host = head.headers.remove(HOST);
    let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = origin.url.clone().into_parts();
    parts.authority = host.or(parts.authority);
    parts.path_and_query = path.or(parts.path_and_query);
    head.uri = Uri::from_parts(parts).expect("scheme, authority and path make a URL");
}
