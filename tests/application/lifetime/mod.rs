//! Streams that outlast the token of their request, with and without `--stream-lifetime token`.

use std::{
    error::Error,
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use http::{HeaderMap, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, channel::Channel};
use hyper::body::{Bytes, Incoming};
use serve::body::{self, Body};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use harness::{
    PATIENCE, SERVER_ID, Stack, https::Https, process::Process, upstream::answering, wait::until,
};

/// Opens WebSockets.
mod sockets;

const TOKEN: [&str; 2] = ["--stream-lifetime", "token"];
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// The first part of each stream.
const FIRST: &str = "data: 1\n\n";
/// A message of gRPC: its flag, its length, and itself.
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

/// A server in front of an application whose answers are streams.
struct Streaming {
    stack: Stack,
    server: Process,
    https: Https,
    /// Lets the application answer a request to `/late`.
    late: Arc<Semaphore>,
}

/// A token, and its expiry.
struct Token {
    bearer: String,
    expiry: SystemTime,
}

impl Token {
    /// Returns a token that expires in two to three seconds.
    fn new(stack: &Stack) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let expiry = Duration::from_secs(now.as_secs() + 3);
        let token = stack.token(|claims| claims.payload["exp"] = expiry.as_secs().into());
        Self {
            bearer: format!("Bearer {token}"),
            expiry: UNIX_EPOCH + expiry,
        }
    }

    fn is_expired(&self) -> bool {
        SystemTime::now() >= self.expiry
    }
}

impl Streaming {
    async fn new(args: &[&str]) -> Self {
        let (stack, late) = (Stack::new().await, Arc::new(Semaphore::new(0)));
        let port = answering(&stack, &["h2", "http/1.1"], {
            let late = Arc::clone(&late);
            move |request| answer(request, Arc::clone(&late))
        });
        let url = format!("https://localhost:{}", port.await);
        let args = [&["--upstream", &url, "--upstream-id", SERVER_ID], args].concat();
        let server = stack.server(&args).await;
        let https = stack.https(server.listening().await);
        Self {
            stack,
            server,
            https,
            late,
        }
    }

    /// Sends a request with a token, and returns the answer before its body.
    async fn start(&self, version: Version, path: &str, token: &Token) -> Response<Incoming> {
        let request = Request::get(path).header("authorization", &token.bearer);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        self.https.start(version, request).await
    }

    /// Makes a gRPC call whose request does not end, and returns the answer before its body.
    async fn call(&self, path: &str, token: &Token) -> (Response<Incoming>, impl Sized) {
        let (sender, body) = Channel::<Bytes>::new(1);
        let call = Request::post(path)
            .header("authorization", &token.bearer)
            .header("te", "trailers")
            .header(CONTENT_TYPE, "application/grpc");
        let call = self
            .https
            .start(Version::HTTP_2, call.body(body).unwrap())
            .await;
        (call, sender)
    }
}

/// The application. Its answers never end, except to `/late`.
async fn answer(request: Request<Incoming>, late: Arc<Semaphore>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/late" => {
            late.acquire().await.unwrap().forget();
            return body::text(StatusCode::OK, "late");
        }
        "/never" => pending::<()>().await,
        _ => {}
    }
    let is_call = path == "/call";
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        let first = if is_call { MESSAGE } else { FIRST.as_bytes() };
        sender.send_data(first.into()).await.unwrap();
        if path != "/ticks" {
            pending::<()>().await;
        }
        while sender.send_data("tick\n".into()).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut response = Response::new(Body::streamed(body));
    let kind = if is_call {
        "application/grpc"
    } else {
        "text/event-stream"
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, kind.parse().unwrap());
    response
}

/// Reads a body until it ends or breaks off.
async fn to_end(mut body: Incoming) -> (Vec<u8>, Result<HeaderMap, hyper::Error>) {
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => bytes.extend(data),
                Err(trailers) => return Ok(trailers.into_trailers().unwrap()),
            }
        }
        Ok(HeaderMap::new())
    };
    let end = timeout(PATIENCE, reading).await.expect("ends in time");
    (bytes, end)
}

#[tokio::test]
async fn a_streaming_answer_breaks_off_when_its_token_expires_u030() {
    let streaming = Streaming::new(&TOKEN).await;
    let check = async |version| {
        for path in ["/ticks", "/silent"] {
            let token = Token::new(&streaming.stack);
            let answer = streaming.start(version, path, &token).await;
            assert_eq!(answer.status(), 200);
            let (bytes, end) = to_end(answer.into_body()).await;
            assert!(bytes.starts_with(FIRST.as_bytes()), "{version:?} {path}");
            let error = end.expect_err("it does not look complete");
            assert!(token.is_expired(), "{version:?} {path}");
            if version == Version::HTTP_2 {
                let reset = error.source().unwrap().downcast_ref::<h2::Error>();
                assert_eq!(reset.unwrap().reason(), Some(h2::Reason::CANCEL));
            }
        }
    };
    join_all(VERSIONS.map(check)).await;
    let line = streaming
        .server
        .logged("stream ended: the token has expired")
        .await;
    assert!(
        line.contains("caller=spiffe://example.org/client"),
        "{line}"
    );
}

#[tokio::test]
async fn a_grpc_call_is_unauthenticated_when_its_token_expires_u030() {
    let streaming = Streaming::new(&TOKEN).await;
    let token = Token::new(&streaming.stack);
    let (answer, _sender) = streaming.call("/call", &token).await;
    assert!(!answer.headers().contains_key("grpc-status"));
    let (bytes, trailers) = to_end(answer.into_body()).await;
    assert_eq!(bytes, MESSAGE);
    let trailers = trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(trailers["grpc-message"], "the token has expired");
    assert!(token.is_expired());

    // The answer to this call has no head.
    let token = Token::new(&streaming.stack);
    let (answer, _sender) = streaming.call("/never", &token).await;
    assert_eq!(answer.headers()["grpc-status"], "16");
    assert!(token.is_expired());
}

#[tokio::test]
async fn an_answer_that_is_complete_is_passed_on_after_its_token_has_expired_u031() {
    let streaming = Streaming::new(&TOKEN).await;
    for version in VERSIONS {
        let token = Token::new(&streaming.stack);
        let answer = tokio::join!(streaming.start(version, "/late", &token), async {
            until(async || token.is_expired()).await;
            streaming.late.add_permits(1);
        });
        let (bytes, end) = to_end(answer.0.into_body()).await;
        assert_eq!(bytes, b"late");
        assert!(end.is_ok(), "{version:?}");
    }
}

#[tokio::test]
async fn a_stream_without_an_end_continues_after_its_token_has_expired_u031() {
    for args in [
        &[] as &[&str],
        &["--stream-lifetime", "connection"],
        // A public request has no caller, although it has a token here.
        &[&TOKEN[..], &["--public", "/ticks"]].concat(),
        &[&TOKEN[..], &["--enforce", "observe"]].concat(),
    ] {
        let streaming = Streaming::new(args).await;
        let check = async |version| {
            let token = Token::new(&streaming.stack);
            let answer = streaming.start(version, "/ticks", &token).await;
            let mut body = answer.into_body();
            let mut after = 0;
            while after < 10 {
                let frame = timeout(PATIENCE, body.frame()).await.expect("is in time");
                assert!(frame.is_some_and(|frame| frame.is_ok()), "{args:?}");
                after += usize::from(token.is_expired());
            }
        };
        join_all(VERSIONS.map(check)).await;
    }
}
