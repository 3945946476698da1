//! An exclusive connection: for one request at a time, over HTTP/1.1 mostly.

use http::{Request, Response};
use hyper::client::conn::http1;
use tokio::time::Instant;

use super::{
    age::Age,
    arriving::Arriving,
    generation::Generation,
    http2::Single,
    prepared::{Need, RequestBody},
    retry::Failure,
    upload::UploadBody,
};

/// A connection for one request at a time.
pub(super) struct ExclusiveConnection<B> {
    pub(super) generation: Generation,
    age: Age,
    sender: ExclusiveSender<B>,
}

/// The sender of the requests of an exclusive connection.
pub(super) enum ExclusiveSender<B> {
    Http1(http1::SendRequest<UploadBody<B>>),
    Http2(Single),
}

impl<B> ExclusiveSender<B> {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

impl<B: RequestBody> ExclusiveConnection<B> {
    /// Takes in a connection that was just opened.
    pub(super) fn new(generation: Generation, sender: ExclusiveSender<B>, age: Age) -> Self {
        Self {
            generation,
            age,
            sender,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.sender.is_http2()
    }

    /// Returns whether a connection of generation `since` or later may take this kind of request. One
    /// that can't be sent again may be lost if the peer closes an idle connection at that time. HTTP/2
    /// reports in that case that the request was not processed.
    pub(super) fn may_take(&self, need: Need, since: Generation, now: Instant) -> bool {
        let is_safe = need.is_repeatable() || self.is_http2() || self.age.is_fresh(now);
        self.generation >= since && is_safe
    }

    /// Returns whether the connection can take a request.
    pub(super) fn is_usable(&mut self, now: Instant) -> bool {
        let is_ready = match &mut self.sender {
            ExclusiveSender::Http1(sender) => sender.is_ready(),
            ExclusiveSender::Http2(single) => single.is_open(),
        };
        !self.age.is_expired(now) && !self.age.is_idle(now) && is_ready
    }

    pub(super) async fn send(
        &mut self,
        request: Request<UploadBody<B>>,
    ) -> Result<Response<Arriving>, Failure> {
        match &mut self.sender {
            ExclusiveSender::Http1(sender) => {
                let sent = sender.try_send_request(request).await;
                Ok(sent?.map(Into::into))
            }
            ExclusiveSender::Http2(single) => single.send(request).await,
        }
    }

    /// Waits until the request is over. Returns whether the connection can take another.
    pub(super) async fn becomes_free(&mut self) -> bool {
        let is_free = match &mut self.sender {
            ExclusiveSender::Http1(sender) => sender.is_ready() || sender.ready().await.is_ok(),
            ExclusiveSender::Http2(single) => single.becomes_free().await,
        };
        self.age.touch(Instant::now());
        is_free
    }
}
