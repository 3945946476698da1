//! Forwards requests: cleans a checked request, sends it, checks the answer and cleans that.

use std::future::Ready;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use serve::{body::Body, peer::Peer};

use crate::{
    body::CleanBody,
    check::{Checked, check_response, check_switch},
    error::Error,
    headers::{self, FieldPolicy},
    outbound::{self, Answered, Caller, Client, PreparedRequest, Security, Upstream},
    websocket::Opening,
};

/// The type of a renewal that never happens.
type Never = fn(StatusCode, &HeaderMap) -> Option<Ready<Option<(HeaderName, HeaderValue)>>>;

/// Forwards requests to one upstream. It belongs to one core, as its connections do.
///
/// Functions that only pass a request on are not async here and in [`LoggedForwarder`]. Otherwise the future
/// of each would have room for the request twice. A task moves its future as a whole. In the proxy that has
/// 5,416 bytes over HTTP/1.1 and 7,112 over HTTP/2, instead of 6,568 and 13,048 (`-Zprint-type-sizes`).
///
/// [`LoggedForwarder`]: crate::LoggedForwarder
#[derive(Debug)]
pub struct Forwarder {
    client: Client<CleanBody>,
    fields: FieldPolicy,
}

impl Forwarder {
    /// Returns a forwarder to `upstream`, whose connections are secured by `security`.
    ///
    /// # Panics
    /// Panics outside a tokio runtime, or if the upstream has no URL.
    #[must_use]
    pub fn new(upstream: Upstream, security: Security, fields: FieldPolicy) -> Self {
        Self {
            client: Client::new(upstream, security),
            fields,
        }
    }

    /// Forwards one request that came from `peer` and returns the upstream's answer. Bodies and
    /// trailers stream both ways, and a WebSocket is the two bodies of its answer with 101. `set` replaces
    /// fields that have its name.
    ///
    /// # Errors
    /// Fails when the upstream gives no valid answer.
    pub fn forward(
        &self,
        request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> {
        self.exchange(request, peer, set, None::<Never>)
    }

    /// Forwards a request as [`Self::forward`] does. `renew` may return a future for the head of the
    /// answer. If that future returns a field and the body is small, the request is sent once more with
    /// the field. `renew` decides whether that is safe.
    ///
    /// # Errors
    /// Fails when the upstream gives no valid answer.
    pub fn forward_renewing<R>(
        &self,
        request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
        renew: impl FnOnce(StatusCode, &HeaderMap) -> Option<R>,
    ) -> impl Future<Output = Result<Response<Body>, Error>>
    where
        R: Future<Output = Option<(HeaderName, HeaderValue)>>,
    {
        self.exchange(request, peer, set, Some(renew))
    }

    async fn exchange<R>(
        &self,
        request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
        renew: Option<impl FnOnce(StatusCode, &HeaderMap) -> Option<R>>,
    ) -> Result<Response<Body>, Error>
    where
        R: Future<Output = Option<(HeaderName, HeaderValue)>>,
    {
        let caller = Caller {
            source: peer.source(),
            eviction: request.0.body().eviction(),
        };
        let takes_trailers = headers::takes_trailers(&request.0);
        let (version, is_websocket) = (request.0.version(), request.is_websocket());
        let mut request = request.cleaned(peer, &self.fields);
        if let Some((name, value)) = set {
            request.headers_mut().insert(name, value);
        }
        if !is_websocket {
            let request = Client::prepare(request).await?;
            // It is boxed because a caller's task moves all of this future. With this and the WebSocket boxed, a
            // request takes the proxy 83,598 instructions instead of 94,514 (`scripts/bench.sh --check`).
            let answered = match renew {
                None => Box::pin(self.client.send(request, &caller)).await?,
                renew => Box::pin(self.send(request, &caller, renew)).await?,
            };
            return finish(answered, takes_trailers);
        }
        let (mut head, body) = request.into_parts();
        let opening = Opening::of(&mut head, version);
        // It is boxed because few requests need it.
        let opened = async {
            let answered = self.send(Client::upgrade(head), &caller, renew).await?;
            open_websocket(answered, &opening, body).await
        };
        Box::pin(opened).await
    }

    /// Sends a request, and once more with the field that `renew` gives.
    async fn send<R>(
        &self,
        request: PreparedRequest<CleanBody>,
        caller: &Caller,
        renew: Option<impl FnOnce(StatusCode, &HeaderMap) -> Option<R>>,
    ) -> Result<Answered<CleanBody>, Error>
    where
        R: Future<Output = Option<(HeaderName, HeaderValue)>>,
    {
        let again = renew.and_then(|renew| Some((renew, request.copy()?)));
        let answered = self.client.send(request, caller).await?;
        if let Some((renew, mut again)) = again {
            let head = answered.response();
            if let Some(renewing) = renew(head.status(), head.headers())
                && let Some((name, value)) = renewing.await
            {
                drop(answered.accept());
                again.head.headers.insert(name, value);
                return Ok(Box::pin(self.client.send(again, caller)).await?);
            }
        }
        Ok(answered)
    }
}

/// Checks and cleans an upstream's answer.
fn finish(answered: Answered<CleanBody>, takes_trailers: bool) -> Result<Response<Body>, Error> {
    let mut response = match check_response(answered.response()) {
        Ok(()) => answered.accept(),
        Err(reason) => return Err(answered.reject(reason).into()),
    };
    let rules = headers::clean_response(&mut response, takes_trailers);
    // The version is each connection's own (RFC 9110 §2.5).
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(|body| Body::streamed(CleanBody::new(body, rules))))
}

const NOT_OPENED: &str = "it answered with success and did not open the WebSocket";

/// Opens a WebSocket after the upstream's answer, with `body` as the bytes of the caller. Returns any
/// other answer.
async fn open_websocket(
    answered: Answered<CleanBody>,
    opening: &Opening,
    body: CleanBody,
) -> Result<Response<Body>, Error> {
    match answered.response().status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        // A caller of HTTP/2 would take a success for an open WebSocket.
        status if status.is_success() && opening.is_over_http2() => {
            return Err(answered.reject(NOT_OPENED).into());
        }
        _ => return finish(answered, false),
    }
    let checked = check_switch(answered.response());
    if let Err(reason) = checked.and_then(|()| opening.check(answered.response().headers())) {
        return Err(answered.reject(reason).into());
    }
    let at = answered.at();
    let (mut response, switched) = answered.switch();
    headers::clean_response(&mut response, false);
    opening.complete(&mut response);
    *response.version_mut() = Version::HTTP_11;
    match switched.open(body).await {
        Ok(tunnel) => Ok(response.map(|()| Body::streamed(tunnel))),
        Err(error) => Err(outbound::Error::broken(at, &error).into()),
    }
}
