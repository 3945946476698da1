//! The life of a stream that outlasts the credential of its request (`--stream-lifetime`).
//!
//! - `expiry`: the end of a credential · `body`: the answer that ends with it · `frames`: the frames of a WebSocket

mod body;
mod expiry;
mod frames;

use std::sync::Arc;

use clap::ValueEnum;
use common::{
    bearer::{Caller, Credential, Refusal, TokenFault},
    reason::Reason,
};
use http::{Request, Response};
use serve::{
    body::{Body, because},
    grpc,
    peer::Peer,
};

use self::{body::Ending, expiry::Expiry};
use crate::answer_refusal;

/// The time at which streams end. Streams are WebSockets, and answers that are sent as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StreamLifetime {
    /// A stream may continue for as long as its connection.
    #[default]
    Connection,
    /// A stream ends when the credential of its request expires.
    Token,
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
    /// Returns the answer, which ends with the credential. A gRPC call that is not answered by then is refused,
    /// because its request may be a stream too.
    pub(crate) async fn bound(
        self,
        answering: impl Future<Output = Response<Body>>,
    ) -> Response<Body> {
        let answered = if self.is_call {
            tokio::select! {
                biased;
                answered = answering => Some(answered),
                () = self.passed() => None,
            }
        } else {
            Some(answering.await)
        };
        match answered {
            Some(response) => Ending::of(response, self),
            None => self.refused(),
        }
    }

    /// Returns the answer to a call whose credential has expired before its answer began.
    fn refused(&self) -> Response<Body> {
        self.log();
        let answer = answer_refusal(&match self.credential {
            Credential::Token { .. } => TokenFault::Expired.into(),
            Credential::Certificate => Refusal::NoCredentials,
        });
        because(Reason::CredentialExpired, answer)
    }
}
