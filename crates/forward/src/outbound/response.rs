//! A response's body, which keeps its upstream connection busy until its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use serve::body::{Wire, WireError};

use super::{
    abandoned::{MIN_AGE, abandon, drain},
    arriving::Arriving,
    in_flight::CountedRequest,
};

/// The time in which an answer that is no longer read may end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// The body of a response as it comes. It ends where the upstream ended it; any other end is an
/// error.
#[derive(Debug)]
pub struct ResponseBody {
    /// The body, and the count of the request on its connection; `None` if there is no body.
    busy: Option<(Arriving, CountedRequest)>,
}

impl ResponseBody {
    pub(super) fn new(body: Arriving, counted: CountedRequest) -> Self {
        Self {
            busy: Some((body, counted)),
        }
    }

    /// Returns an empty body in place of this one.
    pub(super) fn into_empty(self) -> Self {
        Self { busy: None }
    }
}

/// Abandons the request if the body has not ended.
impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some((arriving, counted)) = self.busy.take() else {
            return;
        };
        match arriving {
            Arriving { body, .. } if body.is_end_stream() => {}
            Arriving {
                exchange: Some(exchange),
                ..
            } => exchange.break_off(),
            Arriving {
                body: body @ Wire::Http2(_),
                ..
            } => {
                let grace = if counted.is_evicted() {
                    MIN_AGE.saturating_sub(counted.age())
                } else {
                    GRACE
                };
                abandon(drain(body), counted, grace);
            }
            Arriving { .. } => {}
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match &mut self.get_mut().busy {
            Some((arriving, _)) => Pin::new(&mut arriving.body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.busy
            .as_ref()
            .is_none_or(|(arriving, _)| arriving.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let busy = self.busy.as_ref();
        let hint = busy.map(|(arriving, _)| arriving.body.size_hint());
        hint.unwrap_or_default()
    }
}
