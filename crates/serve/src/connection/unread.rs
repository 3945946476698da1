//! The rest of a request's body that its handler has not read.
//!
//! A short rest is read and dropped, so that the connection can continue and the caller sees its answer.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::{runtime::Handle, time::timeout};

use super::{activity::Activity, windows::LARGE};
use crate::body::Wire;

/// The rest of a request's body that its handler has not read.
#[derive(Debug)]
pub(super) struct Unread {
    body: Wire,
    _open: Option<OpenBody>,
}

/// Counts a request body that is still being read on its connection.
#[derive(Debug)]
pub(super) struct OpenBody {
    activity: Arc<Activity>,
    is_large: bool,
}

/// The longest rest that is read after the answer, and the time for it. Go's server has the same bound
/// (`maxPostHandlerReadBytes`).
pub(super) const MAX_BYTES: u64 = 256 * 1024;
const MAX_TIME: Duration = Duration::from_secs(5);

/// The time for a rest of unknown length to end, so that an HTTP/1.1 connection can continue after the
/// answer.
const BRIEF: Duration = Duration::from_millis(2);

impl Unread {
    /// Returns the rest of `body`, which stays counted as open.
    pub(super) fn new(body: Wire, open: Option<OpenBody>) -> Self {
        Self { body, _open: open }
    }

    /// Reads what comes at once, and returns whether the connection can continue. It can if the rest has
    /// ended, or if a rest of known short length is read in the background.
    pub(super) async fn settles(self) -> bool {
        if self.body.size_hint().lower() > MAX_BYTES {
            return false;
        }
        let is_short = self.body.size_hint().exact().is_some();
        let mut reading = Box::pin(self.read());
        match timeout(BRIEF, reading.as_mut()).await {
            Ok(is_over) => is_over,
            Err(_) if is_short => {
                tokio::spawn(timeout(MAX_TIME, reading));
                true
            }
            Err(_) => false,
        }
    }

    /// Reads the rest in the background, within the bounds.
    pub(super) fn read_in_background(self) {
        if self.body.size_hint().lower() > MAX_BYTES {
            return;
        }
        let mut reading = Box::pin(timeout(MAX_TIME, self.read()));
        // Polls once first, because often all of the rest has come.
        if reading.as_mut().now_or_never().is_none()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(reading);
        }
    }

    /// Reads at most [`MAX_BYTES`], and returns whether the body has ended.
    async fn read(mut self) -> bool {
        let mut left = MAX_BYTES;
        while let Some(frame) = self.body.frame().await {
            let Ok(frame) = frame else {
                return false;
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes as u64) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    }
}

impl OpenBody {
    /// Counts a body of the connection with this activity.
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.body_begins();
        Self {
            activity: Arc::clone(activity),
            is_large: false,
        }
    }

    /// Notes the number of bytes that have come in all.
    pub(super) fn note(&mut self, total: u64) {
        if !self.is_large && total > LARGE {
            self.is_large = true;
            self.activity.body_is_large();
        }
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.activity.body_ends(self.is_large);
    }
}
