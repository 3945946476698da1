//! The application behind the servers of one stack.

use harness::upstream;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serve::body::{self, Body};

/// Starts an application without TLS, which answers as the server does once it has read the request's
/// body. Returns its port.
pub(crate) async fn start() -> u16 {
    upstream::plainly_answering(answer).await
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    match request.into_body().collect().await {
        Ok(_) => body::text(StatusCode::OK, "Success!!!"),
        Err(_) => body::status(StatusCode::BAD_REQUEST),
    }
}
