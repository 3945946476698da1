//! A request that was sent over a lane, which it shares with those of other callers.
//!
//! Servers end a connection on which many requests are taken back as soon as they came (rapid reset,
//! CVE-2023-44487), ours among them. A caller who does that must not have the others' requests ended,
//! so it is not passed on at once: by the time that it would be, most such requests are answered.

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
    answer::Arriving, connection::Lane, http2::body_of, in_flight::InFlight, retry::Failure,
};

/// The least age of a request when its target hears that it is given up.
///
/// Envoy ends a connection when half of its streams live for less than a second.
const MIN_AGE: Duration = Duration::from_secs(1);

/// The time after which a request is given up though its connection has no reset left.
const MAX_AGE: Duration = Duration::from_secs(30);

/// The answer to come. Dropped before, it is waited for until the request is [`MIN_AGE`] old; so long
/// the request is in flight.
pub(super) struct Sent<'a> {
    answer: Option<ResponseFuture>,
    lane: &'a Arc<Lane>,
    in_flight: &'a InFlight,
    since: Instant,
}

impl<'a> Sent<'a> {
    pub(super) fn new(
        answer: ResponseFuture,
        lane: &'a Arc<Lane>,
        in_flight: &'a InFlight,
    ) -> Self {
        Self {
            answer: Some(answer),
            lane,
            in_flight,
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
        if left.is_zero() && self.lane.may_reset() {
            return;
        }
        let (lane, in_flight) = (Arc::clone(self.lane), self.in_flight.clone());
        runtime.spawn(async move {
            let mut rest = pin!(async {
                if let Ok(response) = answer.await {
                    let mut body = body_of(response, None).into_body().body;
                    while let Some(Ok(_)) = body.frame().await {}
                }
            });
            if timeout(left, rest.as_mut()).await.is_err() && !lane.may_reset() {
                // Either way it is given up then.
                let _ = timeout(MAX_AGE, rest).await;
            }
            drop(in_flight);
        });
    }
}
