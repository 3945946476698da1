//! A response's body as it arrives from an upstream connection.

use hyper::body::Incoming;
use serve::body::Wire;
use tokio::{sync::mpsc, task::JoinSet};

/// A body as it arrives, and the work that has to continue meanwhile.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(super) body: Wire,
    /// The work, if the connection is an exclusive HTTP/2 one.
    pub(super) exchange: Option<Exchange>,
}

/// Keeps an exclusive connection busy, and the request's body being sent, until the response's body is
/// dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    busy: mpsc::Sender<()>,
    _upload: JoinSet<()>,
}

impl Exchange {
    /// Holds the connection that `busy` marks, and the task of `upload`.
    pub(super) fn new(busy: mpsc::Sender<()>, upload: JoinSet<()>) -> Self {
        Self {
            busy,
            _upload: upload,
        }
    }

    /// Notes that the response's body is dropped before its end.
    pub(super) fn break_off(&self) {
        // The channel has room for one message, and one is enough.
        let _ = self.busy.try_send(());
    }
}

impl From<Incoming> for Arriving {
    fn from(body: Incoming) -> Self {
        Self {
            body: Wire::Http1(body),
            exchange: None,
        }
    }
}
