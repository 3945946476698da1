//! An upstream connection that was upgraded: the bytes of both directions.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame};
use hyper::{
    body::Bytes,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use serve::{body::BoxError, tunnel};
use tokio::{
    io::{ReadHalf, split},
    task::JoinSet,
};

use super::in_flight::CountedRequest;

/// A connection that the upstream has upgraded.
pub(crate) struct Switched {
    on: OnUpgrade,
    counted: CountedRequest,
}

/// The bytes that come through a tunnel. The bytes of the caller go the other way, on a task that ends
/// with this body.
#[derive(Debug)]
pub(crate) struct TunnelBody {
    reader: ReadHalf<TokioIo<Upgraded>>,
    sending: JoinSet<Result<(), tunnel::Error>>,
    /// Counts the request until the tunnel ends.
    _counted: CountedRequest,
}

impl Switched {
    pub(super) fn new(on: OnUpgrade, counted: CountedRequest) -> Self {
        Self { on, counted }
    }

    /// Opens the tunnel, with `body` as the bytes of the caller.
    ///
    /// # Errors
    /// Fails when the connection has ended.
    pub(crate) async fn open<B>(self, body: B) -> Result<TunnelBody, hyper::Error>
    where
        B: Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        let (reader, mut writer) = split(TokioIo::new(self.on.await?));
        let mut sending = JoinSet::new();
        sending.spawn(async move { tunnel::write(body, &mut writer).await });
        Ok(TunnelBody {
            reader,
            sending,
            _counted: self.counted,
        })
    }
}

impl TunnelBody {
    /// Polls whether the other direction broke off, which breaks this one too.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        match ready!(self.sending.poll_join_next(cx)) {
            // The caller has closed its side, or had before.
            Some(Ok(Ok(()))) | None => Poll::Pending,
            Some(Ok(Err(error))) => Poll::Ready(error.into()),
            Some(Err(error)) => Poll::Ready(io::Error::from(error).into()),
        }
    }
}

impl Body for TunnelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_broken(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let read = ready!(tunnel::poll_read(Pin::new(&mut this.reader), cx));
        let frame = read.map(|bytes| bytes.map(Frame::data));
        Poll::Ready(frame.map_err(Into::into).transpose())
    }
}
