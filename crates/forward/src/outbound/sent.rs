//! A request that was sent over a shared connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use h2::client::ResponseFuture;
use http::Response;

use super::{
    abandoned::{MIN_AGE, abandon, drain},
    arriving::Arriving,
    http2::body_of,
    in_flight::CountedRequest,
    retry::Failure,
};

/// Waits for the answer. If it is dropped before, the request is abandoned.
pub(super) struct Sent<'a> {
    answer: Option<ResponseFuture>,
    counted: &'a CountedRequest,
}

impl<'a> Sent<'a> {
    pub(super) fn new(answer: ResponseFuture, counted: &'a CountedRequest) -> Self {
        Self {
            answer: Some(answer),
            counted,
        }
    }
}

impl Future for Sent<'_> {
    type Output = Result<Response<Arriving>, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.answer else {
            return Poll::Pending;
        };
        let polled = Pin::new(answer).poll(cx);
        if polled.is_ready() {
            self.answer = None;
        }
        polled.map(|answer| Ok(body_of(answer?, None)))
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        let rest = async {
            if let Ok(response) = answer.await {
                drain(body_of(response, None).into_body().body).await;
            }
        };
        let grace = MIN_AGE.saturating_sub(self.counted.age());
        abandon(rest, self.counted.clone(), grace);
    }
}
