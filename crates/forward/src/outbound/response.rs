//! A response's body, which keeps its upstream connection busy until its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serve::body::{Wire, WireError};
use tokio::{runtime::Handle, time::timeout};

use super::{arriving::Arriving, in_flight::CountedRequest};

/// The time in which an abandoned stream may end by itself, and the most that is read of it
/// meanwhile. An immediate reset would count for a flood of resets: Envoy ends a connection when half
/// of its streams live for less than a second, and all callers share it.
const ABANDONED: Duration = Duration::from_secs(1);
const ABANDONED_BYTES: usize = 256 * 1024;

/// The body of a response as it comes. It ends where the upstream ended it; any other end is an
/// error.
#[derive(Debug)]
pub struct ResponseBody {
    /// `None` once the body is dropped.
    body: Option<Arriving>,
    /// Counts the request on its connection.
    counted: Option<CountedRequest>,
}

impl ResponseBody {
    pub(super) fn new(body: Arriving, counted: CountedRequest) -> Self {
        Self {
            body: Some(body),
            counted: Some(counted),
        }
    }

    /// Returns an empty body in place of this one.
    pub(super) fn into_empty(self) -> Self {
        Self {
            body: None,
            counted: None,
        }
    }
}

/// Lets the stream of a shared connection end by itself, if it does so soon.
impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(Arriving {
            body: mut body @ Wire::Http2(_),
            exchange: None,
        }) = self.body.take()
        else {
            return;
        };
        let (false, Ok(runtime)) = (body.is_end_stream(), Handle::try_current()) else {
            return;
        };
        let counted = self.counted.take();
        if counted.as_ref().is_some_and(CountedRequest::is_evicted) {
            return;
        }
        runtime.spawn(timeout(ABANDONED, async move {
            let mut left = ABANDONED_BYTES;
            while left > 0 {
                let Some(Ok(frame)) = body.frame().await else {
                    return;
                };
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
            std::future::pending::<()>().await;
            drop(counted);
        }));
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match &mut self.get_mut().body {
            Some(arriving) => Pin::new(&mut arriving.body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(|arriving| arriving.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(|arriving| arriving.body.size_hint());
        hint.unwrap_or_default()
    }
}
