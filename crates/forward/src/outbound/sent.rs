//! A request that was sent over a shared connection.
//!
//! Servers end a connection on which many requests are taken back as soon as they came (rapid reset,
//! CVE-2023-44487). Ours does so too. A caller who takes requests back must not end those of others.
//! So a reset is not passed on at once, and most such requests are answered before it would be.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2::client::ResponseFuture;
use http::Response;
use http_body_util::BodyExt;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::{
    arriving::Arriving, http2::body_of, in_flight::CountedRequest, retry::Failure,
    shared::SharedConnection,
};

/// The least age of a request at which the upstream is told that it was abandoned.
///
/// Envoy ends a connection when half of its streams live for less than a second.
const MIN_AGE: Duration = Duration::from_secs(1);

/// The time after which an abandoned request is reset though its connection has no reset left.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Waits for the answer. If it is dropped before, a task waits until the request is [`MIN_AGE`] old,
/// and counts the request as in flight until then.
pub(super) struct Sent<'a> {
    answer: Option<ResponseFuture>,
    connection: &'a Arc<SharedConnection>,
    counted: &'a CountedRequest,
    since: Instant,
}

impl<'a> Sent<'a> {
    pub(super) fn new(
        answer: ResponseFuture,
        connection: &'a Arc<SharedConnection>,
        counted: &'a CountedRequest,
    ) -> Self {
        Self {
            answer: Some(answer),
            connection,
            counted,
            since: Instant::now(),
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
        let (Some(answer), Ok(runtime)) = (self.answer.take(), Handle::try_current()) else {
            return;
        };
        let left = MIN_AGE.saturating_sub(self.since.elapsed());
        if left.is_zero() && self.connection.may_reset() {
            return;
        }
        let (connection, counted) = (Arc::clone(self.connection), self.counted.clone());
        runtime.spawn(async move {
            let mut rest = pin!(async {
                if let Ok(response) = answer.await {
                    let mut body = body_of(response, None).into_body().body;
                    while let Some(Ok(_)) = body.frame().await {}
                }
            });
            if timeout(left, rest.as_mut()).await.is_err() && !connection.may_reset() {
                // The request is reset afterwards in either case.
                let _ = timeout(MAX_AGE, rest).await;
            }
            drop(counted);
        });
    }
}
