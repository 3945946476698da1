//! The life of a stream that outlasts the credential of its request (`--stream-lifetime`).
//!
//! - `body`: the answer that ends with the credential · `frames`: the frames of a WebSocket

mod body;
mod frames;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use common::bearer::{Caller, Credential, Refusal, TokenFault};
use http::{Request, Response};
use serve::{Received, body::Body, grpc, peer::Peer, websocket::WebSocket};
use spiffe::SpiffeId;
use tokio::time::sleep;
use tracing::info;

use self::body::Ending;
use crate::answer_refusal;

/// The longest time between two looks at the clock, which may be set, or go on while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The time that the answer has to end before the request breaks off, which would break the answer too.
const ANSWER_FIRST: Duration = Duration::from_secs(2);

/// The end of streams: WebSockets, and answers that are sent as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StreamLifetime {
    /// A stream may continue for as long as its connection.
    #[default]
    Connection,
    /// A stream ends when the credential of its request expires.
    Token,
}

/// The end of a caller's credential, which the answer to its request must not outlast.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    at: SystemTime,
    credential: Credential,
    /// Set if the request is a gRPC call.
    is_call: bool,
    caller: Arc<SpiffeId>,
    peer: Peer,
}

impl StreamLifetime {
    /// Returns the end of the answer to a request of `peer`, or `None` if it has none.
    pub(crate) fn expiry<B>(
        self,
        request: &Request<B>,
        caller: Option<&Caller>,
        peer: &Peer,
    ) -> Option<Expiry> {
        let caller = match self {
            Self::Connection => None,
            Self::Token => caller,
        }?;
        let at = match caller.credential {
            Credential::Token { until } => until,
            Credential::Certificate => peer.id_until()?,
        };
        Some(Expiry {
            at,
            credential: caller.credential,
            is_call: grpc::is_call(request),
            caller: Arc::clone(&caller.id),
            peer: peer.clone(),
        })
    }
}

impl Expiry {
    /// Bounds the caller's side of a WebSocket or a gRPC call. It would continue while the caller reads nothing
    /// of the answer, whose end would then be late.
    pub(crate) fn bound_stream_of(&self, request: &mut Request<Received>) {
        let is_socket = request.extensions().get::<WebSocket>().is_some();
        if is_socket || self.is_call {
            request.body_mut().end_at(self.at + ANSWER_FIRST);
        }
    }

    /// Returns the answer, which ends with the credential. A gRPC call that is not answered by then is refused,
    /// because its request may be a stream too.
    pub(crate) async fn bound(
        self,
        answering: impl Future<Output = Response<Body>>,
    ) -> Response<Body> {
        let answered = match self.is_call {
            false => Some(answering.await),
            true => tokio::select! {
                biased;
                answered = answering => Some(answered),
                () = self.passed() => None,
            },
        };
        match answered {
            Some(response) => Ending::of(response, self),
            None => self.refused(),
        }
    }

    /// Returns the answer to a call whose credential has expired before its answer began.
    fn refused(&self) -> Response<Body> {
        self.log();
        answer_refusal(&match self.credential {
            Credential::Token { .. } => TokenFault::Expired.into(),
            Credential::Certificate => Refusal::NoCredentials,
        })
    }

    /// Waits until the credential has expired.
    async fn passed(&self) {
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// Returns the time that is left.
    fn left(&self) -> Duration {
        let left = self.at.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }

    /// Returns the reason that the caller is told.
    fn reason(&self) -> &'static str {
        match self.credential {
            Credential::Token { .. } => "the token has expired",
            Credential::Certificate => "the certificate has expired",
        }
    }

    fn log(&self) {
        let Self { caller, peer, .. } = self;
        info!(%caller, %peer, "stream ended: {}", self.reason());
    }
}
