//! Fuzzes the forwarder with the bytes of an HTTP/1.1 caller or the fields of an HTTP/2 request.

use std::{
    cell::Cell,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use forward::{Checked, CleanBody, FieldPolicy};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use serve::{
    body::{self, Body},
    last,
    peer::Peer,
};
use tokio::runtime::Builder;

use super::{
    bodies::{Http2Body, Record, Recorded},
    crossing::{HOST, PEER_IP, check},
    cut,
    script::{Caller, Script},
    upstream::Upstream,
};

/// Sends requests to an [`Upstream`] as the forwarder's pool does.
struct Sender<B: http_body::Body + Unpin> {
    client: Client<Upstream, CleanBody<Recorded<B>>>,
    upstream: Upstream,
    forwarded: Cell<usize>,
}

/// Takes the bytes that an HTTP/1.1 caller sends on its connection before it ends it. If the first
/// line is `h2`, the next lines are the pseudo-fields and fields of an HTTP/2 request. Its body
/// comes after an empty line.
///
/// # Panics
/// Panics if a forwarded request reaches the upstream as anything other than one request with the
/// same meaning. Panics too if something reaches the upstream for a request that is rejected.
pub fn cleaning(input: &[u8]) {
    let runtime = Builder::new_current_thread()
        .build()
        .expect("nothing but memory");
    runtime.block_on(async {
        match input.strip_prefix(b"h2\n") {
            Some(fields) => over_http2(fields).await,
            None => over_http1(input).await,
        }
    });
}

async fn over_http1(input: &[u8]) {
    let sender = Sender::new();
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(sender.answer(request).await)
    });
    let caller = Caller::default();
    let script = Script {
        caller: &caller,
        rest: input,
    };
    // Bytes that are not HTTP end the connection with an error, which is an answer too.
    let connection = serve::http1().serve_connection(TokioIo::new(script), service);
    caller
        .drive(connection, || sender.upstream.read().moves)
        .await;
    sender.done()
}

async fn over_http2(input: &[u8]) {
    let sender = Sender::new();
    if let Some(request) = http2_request(input) {
        sender.answer(request).await;
    }
    sender.done()
}

/// Returns a request as the HTTP/2 layer would.
fn http2_request(input: &[u8]) -> Option<Request<Http2Body>> {
    let (head, body) = cut(input, b"\n\n");
    let mut request = Request::new(Http2Body(body.to_vec()));
    *request.version_mut() = Version::HTTP_2;
    let (mut scheme, mut authority, mut path) = (None, None, None);
    let lines = head.split(|&byte| byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().skip(1).position(|&byte| byte == b':')? + 1;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let text = std::str::from_utf8(value);
        match name {
            b":method" => *request.method_mut() = Method::from_bytes(value).ok()?,
            b":scheme" => scheme = Some(text.ok()?),
            b":authority" => authority = Some(text.ok()?),
            b":path" => path = Some(text.ok()?),
            _ => {
                let name = HeaderName::from_lowercase(name).ok()?;
                let value = HeaderValue::from_bytes(value).ok()?;
                request.headers_mut().append(name, value);
            }
        }
    }
    let mut uri = http::Uri::builder();
    if let (Some(scheme), Some(authority)) = (scheme, authority) {
        uri = uri.scheme(scheme).authority(authority);
    }
    *request.uri_mut() = uri.path_and_query(path?).build().ok()?;
    is_of_length(request.headers(), body.len()).then_some(request)
}

/// Returns whether `content-length` is right. Otherwise the body never ends (RFC 9113 §8.1.1).
fn is_of_length(headers: &HeaderMap, length: usize) -> bool {
    let said = headers.get("content-length").map(HeaderValue::to_str);
    said.is_none_or(|said| said.is_ok_and(|said| said.parse() == Ok(length)))
}

impl<B> Sender<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new() -> Self {
        let upstream = Upstream::default();
        let client = Client::builder(TokioExecutor::new()).build(upstream.clone());
        let forwarded = Cell::new(0);
        Self {
            client,
            upstream,
            forwarded,
        }
    }

    /// Checks that the upstream got nothing for requests that were not forwarded.
    fn done(self) {
        let read = self.upstream.read();
        assert_eq!(read.fault, None);
        assert_eq!(
            read.messages.len(),
            self.forwarded.get(),
            "{:?}",
            read.messages
        );
    }

    /// Answers as the proxy does.
    async fn answer(&self, request: Request<B>) -> Response<Body> {
        let is_last = last::may_change_protocol(&request);
        let mut response = self.forward(request).await;
        last::announce(&mut response, is_last);
        response
    }

    async fn forward(&self, request: Request<B>) -> Response<Body> {
        let came = without_body(&request);
        let record = Arc::<Mutex<Record>>::default();
        let request = request.map(|body| Recorded {
            body,
            record: Arc::clone(&record),
        });
        let before = self.upstream.read().messages.len();
        let request = match Checked::new(request) {
            Ok(request) => request,
            Err(rejected) => return rejected.rejection.into_response(),
        };
        let peer = SocketAddr::new(PEER_IP.parse().expect("an address"), 4711);
        let mut request = request.cleaned(&Peer::from(peer), &FieldPolicy::default());
        let url = format!("https://{HOST}{}", request.uri());
        *request.uri_mut() = url.parse().expect("a URL");
        *request.version_mut() = Version::HTTP_11;
        let answer = self.client.request(request).await;

        let read = self.upstream.read();
        let record = record
            .lock()
            .expect("no code panics while it holds the lock");
        let new = &read.messages[before..];
        let Ok(response) = answer else {
            let is_broken = record.broken && new.is_empty() && read.fault.is_none();
            assert!(is_broken, "not sent: {came:?} {:?} {answer:?}", read.fault);
            return body::status(StatusCode::BAD_GATEWAY);
        };
        self.forwarded.set(self.forwarded.get() + 1);
        let [sent] = new else {
            panic!("one request became {}: {new:?}", new.len());
        };
        assert_eq!(read.unfinished, 0, "something after {sent:?}");
        let is_whole = record.ended && !record.broken;
        assert!(is_whole, "a body that broke off looks whole: {sent:?}");
        assert_eq!(sent.body, record.data, "another body: {sent:?}");
        check(sent, &came);
        response.map(Body::streamed)
    }
}

/// Copies the head of a request.
fn without_body<B>(request: &Request<B>) -> Request<()> {
    let mut came = Request::new(());
    came.method_mut().clone_from(request.method());
    came.uri_mut().clone_from(request.uri());
    *came.version_mut() = request.version();
    came.headers_mut().clone_from(request.headers());
    came
}
