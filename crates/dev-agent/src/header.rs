//! The security header that every call must have (Workload Endpoint §3). A program that can be
//! tricked into a request to a URL can't be tricked into this header.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, Request, Response};
use tonic::{Status, body::Body};
use tower_service::Service;
use tracing::info;

use crate::attest::PeerProcess;

const HEADER: &str = "workload.spiffe.io";

/// A service that rejects every call without the header, and passes on the others.
#[derive(Clone)]
pub(crate) struct RequireHeader<S> {
    pub(crate) service: S,
    /// The calling process, for the log.
    pub(crate) peer: PeerProcess,
}

impl<S, B> Service<Request<B>> for RequireHeader<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let status = if !is_present(request.headers()) {
            let PeerProcess { pid, uid, .. } = self.peer;
            info!(pid, uid, "denied: no security header");
            Status::invalid_argument("security header missing from request")
        } else if is_compressed(request.headers()) {
            // The call is rejected here, because tonic's own answer repeats the caller's text.
            Status::unimplemented("compression is not supported")
        } else {
            return Either::Left(self.service.call(request));
        };
        Either::Right(ready(Ok(status.into_http())))
    }
}

/// Returns whether the header has exactly one value, exactly `true`.
fn is_present(headers: &HeaderMap) -> bool {
    headers.get_all(HEADER).iter().eq(["true"])
}

fn is_compressed(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all("grpc-encoding").iter();
    encodings.any(|encoding| encoding != "identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_header_with_the_value_true_is_accepted_w020() {
        for (values, expected) in [
            (/* "W18" */ &["true"][..], true),
            (&[], false),
            (/* "W21" */ &["true", "true"], false),
            (&["true", "false"], false),
            (&["True"], false),
            (&["TRUE"], false),
            (&["1"], false),
            (&[" true"], false),
            (&["true,true"], false),
            (&[""], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            assert_eq!(is_present(&headers), expected, "{values:?}");
        }
    }
}
