//! Requests to a target that is verified by its SPIFFE ID before the first byte of a request: over
//! pooled connections, HTTP/2 or 1.1 as the target offers, under deadlines.
//!
//! Knows nothing of flags or of which binary it is in. One [`Client`] belongs to one core: its
//! connections are that core's own.
//!
//! - `pool`, `state`: which connection a request takes · `endpoint`, `connection`: what they are ·
//!   `opening`: new ones · `in_flight`: what is counted · `resets`: a budget
//! - `choice`, `health`, `retry`: who is chosen, who is left out, what is sent again; pure
//! - `origin`, `resolve`: names to endpoints · `connector`: TCP and TLS to one
//! - `prepared`, `upload`: a request's body before and while it is sent · `answer`: a response's on its
//!   way in · `sent`: between
//! - `http2`: HTTP/2 on a connection

mod answer;
mod choice;
mod connection;
mod connector;
mod endpoint;
mod error;
mod health;
mod http2;
mod in_flight;
mod opening;
mod origin;
mod pool;
mod prepared;
mod resets;
mod resolve;
mod retry;
mod sent;
mod state;
mod upload;
mod upstream;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use common::{cause, tls};
use http::{Request, Response, StatusCode, Version, header::HOST, request::Parts};
use http_body::Body;
use hyper::body::Bytes;
use serve::shares::Eviction;
use tokio::task::JoinSet;

pub use self::{
    answer::Answer,
    error::{At, Error},
    upstream::Upstream,
};
use self::{
    answer::Arriving, connection::Connection, pool::Pool, prepared::Prepared, upload::Upload,
};

/// What can be sent as a request's body.
pub trait RequestBody:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static
{
}

impl<B> RequestBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static
{
}

/// Sends requests to one upstream.
pub struct Client<B> {
    upstream: Upstream,
    pool: Arc<Pool<B>>,
    /// Ends with this.
    _upkeep: JoinSet<()>,
}

/// The caller of a listener that a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The source that its requests are counted for.
    pub(crate) source: IpAddr,
    /// Told when the request has to make room for another source's.
    pub(crate) eviction: Arc<Eviction>,
}

/// A request that is not answered, and what is left of it to be sent again.
struct Unanswered<B> {
    error: Error,
    again: Option<(Parts, Prepared<B>)>,
}

impl<B: RequestBody> Client<B> {
    /// Sends to `upstream`, whose identity `tls` verifies ([`common::tls::client`]).
    ///
    /// # Panics
    /// Outside a tokio runtime, or if the upstream has no URL.
    #[must_use]
    pub fn new(upstream: Upstream, tls: tls::Outgoing) -> Self {
        assert!(!upstream.urls.is_empty(), "an upstream has a URL");
        let pool = Pool::new(&upstream, tls.clone());
        let mut upkeep = JoinSet::new();
        upkeep.spawn(pool::upkeep(Arc::downgrade(&pool), tls));
        Self {
            upstream,
            pool,
            _upkeep: upkeep,
        }
    }

    /// Returns the upstream that the requests go to.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Sends one request; its URI has the target's scheme and authority. Returns the answer with its
    /// body still streaming.
    ///
    /// # Errors
    /// When there is no answer, by whose fault.
    pub async fn request(&self, request: Request<B>) -> Result<Response<Answer>, Error> {
        let caller = Caller {
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            eviction: Arc::default(),
        };
        self.request_checked(request, caller, |_| Ok(())).await
    }

    /// Sends one request as [`Self::request`] does, for a `caller` of a listener: where requests have to
    /// wait, sources are served in turn. `check` may find the answer's head unacceptable: new requests
    /// then use new connections.
    ///
    /// A request that can't have had an effect and failed on its connection is sent once
    /// more, on another one.
    ///
    /// # Errors
    /// When there is no answer, or none that is acceptable, by whose fault.
    pub(crate) async fn request_checked(
        &self,
        request: Request<B>,
        caller: Caller,
        check: impl Fn(&Response<Answer>) -> Result<(), &'static str>,
    ) -> Result<Response<Answer>, Error> {
        let (mut head, body) = request.into_parts();
        let mut body = Prepared::read(body)
            .await
            .map_err(|error| Error::request_body(cause::chain(&*error)))?;
        body.frame(&mut head.headers);
        let mut failed = None;
        loop {
            let need = body.need();
            let mut connection = self.pool.connection(need, &caller, failed.as_ref()).await?;
            let exchange = self.exchange(&mut connection, head, body, failed.is_none());
            let unanswered = match exchange.await {
                Ok(response) => return self.checked(response, connection, &check),
                Err(unanswered) => unanswered,
            };
            (head, body) = unanswered.again.ok_or(unanswered.error)?;
            failed = Some(self.pool.failed(&connection));
        }
    }

    async fn exchange(
        &self,
        connection: &mut Connection<B>,
        mut head: Parts,
        body: Prepared<B>,
        is_first: bool,
    ) -> Result<Response<Arriving>, Unanswered<B>> {
        let is_repeatable = retry::is_repeatable(&head.method, body.is_some());
        // As it was before it was addressed to this endpoint.
        let copy = is_first.then(|| head.clone());
        address(&mut head, connection);
        let answers = connection.in_flight.answers();
        let (upload, body) = Upload::of(body);
        let sent = tokio::select! {
            sent = connection.send(Request::from_parts(head, body)) => sent,
            () = upload.stalled(self.upstream.response_timeout) => {
                let error = Error::ResponseTimeout(self.pool.at(&connection.place));
                self.pool.silent(connection, answers, &error);
                return Err(error.into());
            }
        };
        let failure = match sent {
            Ok(response) => {
                connection.in_flight.answered();
                // An upstream that has not read all of the body may close after its answer.
                connection.is_to_be_kept = upload.is_sent();
                return Ok(response);
            }
            Err(failure) => failure,
        };
        if let Some(cause) = upload.failure() {
            return Err(Error::request_body(cause).into());
        }
        let again = match retry::is_allowed(failure.progress(), is_repeatable) {
            true => copy.zip(upload.taken_back()),
            false => None,
        };
        let error = Error::unanswered(&failure, self.pool.at(&connection.place));
        Err(Unanswered { error, again })
    }

    fn checked(
        &self,
        response: Response<Arriving>,
        connection: Connection<B>,
        check: impl Fn(&Response<Answer>) -> Result<(), &'static str>,
    ) -> Result<Response<Answer>, Error> {
        let (number, endpoint) = (connection.number(), connection.endpoint);
        let is_to_be_kept = connection.is_to_be_kept;
        let place = Arc::clone(&connection.place);
        let (in_flight, idle) = connection.into_parts();
        let response = response.map(|body| Answer::new(body, in_flight));
        if let Err(reason) = check(&response) {
            self.pool.leave(endpoint, number);
            return Err(Error::Failed(self.pool.at(&place), reason.to_owned()));
        }
        if let Some(idle) = idle.filter(|_| is_to_be_kept) {
            self.pool.keep(endpoint, idle);
        }
        Ok(match response.status() {
            // Whatever ends their streams: these have no body (RFC 9110 §6.4.1).
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => response.map(Answer::into_empty),
            _ => response,
        })
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

/// Addresses a request to the endpoint of its connection, as that speaks: HTTP/2 in its URI, HTTP/1.1
/// in `Host`.
fn address<B: RequestBody>(head: &mut Parts, connection: &Connection<B>) {
    let origin = &connection.place.origin;
    // A request marked HTTP/2 would be refused on HTTP/1.1.
    head.version = Version::HTTP_11;
    let path = head.uri.path_and_query().cloned();
    if !connection.is_http2() {
        let host = || origin.host_field.clone();
        head.headers.entry(HOST).or_insert_with(host);
        head.uri = path.map(Uri::from).unwrap_or_default();
    } else if head.uri.authority() != origin.url.authority() {
        let mut parts = origin.url.clone().into_parts();
        parts.path_and_query = path.or(parts.path_and_query);
        head.uri = Uri::from_parts(parts).expect("an absolute URL and a path");
    }
}
