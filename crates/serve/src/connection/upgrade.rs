//! The upgrade of an HTTP/1.1 connection to a WebSocket.

use http::Request;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, split},
    sync::oneshot,
};

use super::answer::Answer;
use crate::{
    tunnel,
    upgraded::{Reader, Upgraded},
};

/// An upgrade that the caller wants.
pub(super) struct Upgrade {
    on: OnUpgrade,
    reader: oneshot::Sender<Reader>,
}

/// A connection after its last answer, which hyper does not close because the caller wanted an upgrade.
pub(super) enum Tunnel {
    /// The connection is upgraded, and the answer has its other direction.
    Open(Upgrade, Answer),
    /// The upgrade was refused.
    Refused(OnUpgrade),
}

/// The reason why a tunnel ended early. It is routine and logged at debug level.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("upgrade: {0}")]
    Upgrade(#[from] hyper::Error),
    #[error("tunnel: {0}")]
    Tunnel(#[from] tunnel::Error),
}

impl Upgrade {
    /// Returns the upgrade that a request wants, and the body that it begins.
    pub(super) fn of<B>(request: &mut Request<B>) -> (Self, Upgraded) {
        let (reader, awaited) = oneshot::channel();
        let on = hyper::upgrade::on(request);
        (Self { on, reader }, Upgraded::after(awaited))
    }

    /// Returns the tunnel that begins with an answer.
    pub(super) fn accepted(self, answer: Answer) -> Tunnel {
        answer.in_flight().streams_answer();
        Tunnel::Open(self, answer)
    }

    /// Returns the connection that ends with an answer.
    pub(super) fn refused(self) -> Tunnel {
        Tunnel::Refused(self.on)
    }
}

impl Tunnel {
    /// Carries bytes in both directions until the answer ends. Then closes the connection.
    pub(super) async fn run(self) -> Result<(), Error> {
        match self {
            Self::Open(Upgrade { on, reader }, answer) => {
                let (own_reader, mut writer) = split(TokioIo::new(on.await?));
                // An error means that the handler reads nothing of the caller.
                let _ = reader.send(own_reader);
                tunnel::write(answer, &mut writer).await?;
            }
            Self::Refused(on) => {
                // hyper has closed the connection itself if it saw no upgrade to refuse.
                if let Ok(refused) = on.await {
                    let closed = TokioIo::new(refused).shutdown().await;
                    closed.map_err(tunnel::Error::from)?;
                }
            }
        }
        Ok(())
    }
}
