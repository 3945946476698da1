//! Requests on a shared connection that nobody waits for any more.
//!
//! Servers end a connection on which many streams are reset, or are reset as soon as they are opened
//! (rapid reset, CVE-2023-44487). Ours does so too. A caller that takes requests back must not end
//! those of others. A stream is therefore reset only when it is [`MIN_AGE`] old and its connection has
//! a reset left. Most streams have ended by then. A connection without a reset takes no new requests.
//! The streams on it are reset as it gets more, or all at once when nobody waits for any of them.

use std::{pin::pin, time::Duration};

use http_body_util::BodyExt;
use serve::body::Wire;
use tokio::{runtime::Handle, time::timeout};

use super::in_flight::CountedRequest;

/// The least age of a request at which the upstream is told that it was abandoned.
///
/// Envoy ends a connection when half of its streams live for less than a second.
pub(super) const MIN_AGE: Duration = Duration::from_secs(1);

/// The pause before a stream asks for a reset again.
const RETRY: Duration = Duration::from_secs(1);

/// Lets a stream end by itself within `grace`, and resets it afterwards as soon as it may be. The
/// request is in flight until then. `rest` ends with the stream, and resets it if it is dropped before.
pub(super) fn abandon(
    rest: impl Future<Output = ()> + Send + 'static,
    counted: CountedRequest,
    grace: Duration,
) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    let abandoned = counted.abandon();
    // The room goes to the next waiting request, and not to one that looks for room meanwhile.
    if grace.is_zero() && abandoned.may_reset() {
        drop(rest);
        return;
    }
    runtime.spawn(async move {
        let abandoned = abandoned;
        let mut rest = pin!(rest);
        let mut pause = grace;
        while timeout(pause, rest.as_mut()).await.is_err() && !abandoned.may_reset() {
            pause = RETRY;
        }
    });
}

/// Reads a body to its end. Does not reopen its window, so that little more of it comes.
pub(super) async fn drain(mut body: Wire) {
    if let Wire::Http2(body) = &mut body {
        body.keep_window();
    }
    while let Some(Ok(_)) = body.frame().await {}
}
