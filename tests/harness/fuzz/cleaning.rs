//! Bytes of an HTTP/1.1 caller, or the fields of an HTTP/2 one → what the forwarder sends upstream.

use std::{
    cell::Cell,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use common::{
    body::{self, Body, WithoutTrailers},
    forward::{self, Checked},
    serve,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::runtime::Builder;

use super::{
    cut,
    script::{Caller, Script},
    upstream::Upstream,
    wire::Message,
};

const PEER: &str = "192.0.2.7:4711";
const UPSTREAM: &str = "https://upstream.example:8080";
const HOST: &str = "upstream.example:8080";

/// What no request to the upstream has.
const GONE: [&str; 17] = [
    "client-cert",
    "connection",
    "expect",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "true-client-ip",
    "upgrade",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-spiffe-id",
];

/// What begins the names of others that it has not, but for [`SET`].
const GONE_BEGINNINGS: [&str; 6] = [
    "client-cert",
    "ssl-client-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded",
    "x-spiffe-",
];

/// What it has as the proxy says it.
const SET: [&str; 9] = [
    "content-length",
    "cookie",
    "host",
    "max-forwards",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// What stays, though `Connection` names it.
const NOT_NOMINABLE: [&str; 6] = [
    "authorization",
    "cache-control",
    "content-length",
    "cookie",
    "host",
    "via",
];

/// Sends requests to an [`Upstream`] as the forwarder's pool does.
struct Sender<B: http_body::Body + Unpin> {
    client: Client<Upstream, WithoutTrailers<Recorded<B>>>,
    upstream: Upstream,
}

/// What a body gave to the one who read it.
#[derive(Default)]
struct Record {
    data: Vec<u8>,
    ended: bool,
    broken: bool,
}

/// The body of an HTTP/2 request: its length is known when it has come.
struct Http2Body(Vec<u8>);

/// A body that is recorded.
struct Recorded<B: http_body::Body + Unpin> {
    body: B,
    record: Arc<Mutex<Record>>,
}

/// Takes the bytes that an HTTP/1.1 caller sends on its connection before it ends it. If the first
/// line is `h2`, those after it are the pseudo-fields and fields of an HTTP/2 request, and after an
/// empty line comes its body.
///
/// # Panics
/// If what reaches the upstream for each request that is forwarded is not that one request, by
/// nobody else, or if anything reaches it for one that is not.
pub fn cleaning(input: &[u8]) {
    let runtime = Builder::new_current_thread()
        .build()
        .expect("nothing but memory");
    let upstream = runtime.block_on(async {
        match input.strip_prefix(b"h2\n") {
            Some(fields) => over_http2(fields).await,
            None => over_http1(input).await,
        }
    });
    drop(runtime);
    assert_eq!(upstream.read().fault, None);
}

async fn over_http1(input: &[u8]) -> Upstream {
    let sender = Sender::new();
    let requests = Cell::new(0);
    let service = service_fn(async |request: Request<Incoming>| {
        requests.set(requests.get() + 1);
        Ok::<_, Infallible>(sender.answer(request).await)
    });
    let caller = Caller::default();
    let script = Script {
        caller: &caller,
        rest: input,
    };
    // What is no HTTP ends the connection with an error: that is an answer too.
    let connection = serve::http1().serve_connection(TokioIo::new(script), service);
    caller
        .drive(connection, || sender.upstream.read().moves)
        .await;
    assert!(sender.upstream.read().messages.len() <= requests.get());
    sender.upstream
}

async fn over_http2(input: &[u8]) -> Upstream {
    let sender = Sender::new();
    if let Some(request) = http2_request(input) {
        sender.answer(request).await;
    }
    sender.upstream
}

/// A request as the HTTP/2 layer gives it.
fn http2_request(input: &[u8]) -> Option<Request<Http2Body>> {
    let (head, body) = cut(input, b"\n\n");
    let mut request = Request::new(Http2Body(body.to_vec()));
    *request.version_mut() = Version::HTTP_2;
    let (mut scheme, mut authority, mut path) = (None, None, None);
    for line in head
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
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
                request
                    .headers_mut()
                    .append(name, HeaderValue::from_bytes(value).ok()?);
            }
        }
    }
    let mut uri = http::Uri::builder();
    if let (Some(scheme), Some(authority)) = (scheme, authority) {
        uri = uri.scheme(scheme).authority(authority);
    }
    *request.uri_mut() = uri.path_and_query(path?).build().ok()?;
    // A body of another length never comes to its end (RFC 9113 §8.1.1).
    if let Some(length) = request.headers().get("content-length") {
        let length: usize = length.to_str().ok()?.parse().ok()?;
        return (length == body.len()).then_some(request);
    }
    Some(request)
}

impl<B> Sender<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new() -> Self {
        let upstream = Upstream::default();
        let client = Client::builder(TokioExecutor::new()).build(upstream.clone());
        Self { client, upstream }
    }

    /// As the proxy does.
    async fn answer(&self, request: Request<B>) -> Response<Body> {
        let is_last = forward::is_last(&request);
        let mut response = self.forward(request).await;
        if is_last {
            forward::close(&mut response);
        }
        response
    }

    async fn forward(&self, request: Request<B>) -> Response<Body> {
        let peer: SocketAddr = PEER.parse().expect("an address");
        let came = came(&request);
        let record = Arc::<Mutex<Record>>::default();
        let request = request.map(|body| Recorded {
            body,
            record: Arc::clone(&record),
        });
        let before = self.upstream.read().messages.len();
        let request = match Checked::new(request) {
            Ok(request) => request,
            Err(rejection) => return rejection.into_response(),
        };
        let mut request = request.cleaned(&UPSTREAM.parse().expect("a URL"), peer);
        *request.version_mut() = Version::HTTP_11;
        let answer = self.client.request(request).await;

        let read = self.upstream.read();
        let record = record.lock().expect("nobody panics with it");
        let new = &read.messages[before..];
        let Ok(response) = answer else {
            assert_eq!(read.fault, None);
            assert!(
                record.broken && new.is_empty(),
                "not sent: {came:?}\n{:?}",
                answer.err()
            );
            return body::status(StatusCode::BAD_GATEWAY);
        };
        let [sent] = new else {
            panic!("one request became {}: {new:?}", new.len());
        };
        assert_eq!(read.unfinished, 0, "something after {sent:?}");
        assert!(
            record.ended && !record.broken,
            "a body that broke off looks whole: {sent:?}"
        );
        assert_eq!(sent.body, record.data, "another body: {sent:?}");
        check(sent, &came);
        response.map(Body::Upstream)
    }
}

/// A request without its body.
fn came<B>(request: &Request<B>) -> Request<()> {
    let mut came = Request::new(());
    came.method_mut().clone_from(request.method());
    came.uri_mut().clone_from(request.uri());
    *came.version_mut() = request.version();
    came.headers_mut().clone_from(request.headers());
    came
}

/// That what was sent is what came, without what must not cross.
fn check(sent: &Message, came: &Request<()>) {
    let target = came
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let slash = if target.starts_with('/') { "" } else { "/" };
    assert_eq!(sent.method, came.method().as_str());
    assert_eq!(sent.target, format!("{slash}{target}"));
    let one = |name: &str, value: &[u8]| assert_eq!(sent.values(name), [value], "{name}: {sent:?}");
    one("host", HOST.as_bytes());
    one("x-forwarded-for", b"192.0.2.7");
    one("x-forwarded-proto", b"https");
    let asked = match came.uri().authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => came
            .headers()
            .get("host")
            .map(|host| host.as_bytes().trim_ascii()),
    };
    assert_eq!(
        sent.values("x-forwarded-host"),
        Vec::from_iter(asked),
        "{sent:?}"
    );
    let is_list_or_user = asked.is_some_and(|host| host.contains(&b',') || host.contains(&b'@'));
    assert!(!is_list_or_user, "{sent:?}");
    assert!(sent.values("cookie").len() <= 1, "{sent:?}");

    let (via, before) = (sent.values("via"), values(came.headers(), "via"));
    assert_eq!(via.len(), before.len() + 1, "{sent:?}");
    assert!(
        via.last()
            .is_some_and(|hop| hop.ends_with(b" spiffe-jwt-proxy")),
        "{sent:?}"
    );
    assert_eq!(
        sent.values("authorization"),
        values(came.headers(), "authorization")
    );
    assert!(sent.values("authorization").len() <= 1, "{sent:?}");
    for (name, _) in &sent.fields {
        let name = name.as_str();
        let is_set = SET.contains(&name);
        assert!(is_set || !is_gone(name, came.headers()), "{name}: {sent:?}");
        let values_before = values(came.headers(), name);
        assert!(
            is_set || sent.values(name) == values_before,
            "{name}: {sent:?}"
        );
    }
    for name in came.headers().keys().map(HeaderName::as_str) {
        let stays = SET.contains(&name) || is_gone(name, came.headers());
        assert!(
            stays || !sent.values(name).is_empty(),
            "{name} is lost: {sent:?}"
        );
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.as_bytes().trim_ascii()).collect()
}

/// Whether a field is of the caller's connection, or a claim of who it is.
fn is_gone(name: &str, came: &HeaderMap) -> bool {
    let connection = values(came, "connection").join(&b',');
    let mut nominated = connection.split(|&byte| byte == b',');
    GONE.contains(&name)
        || GONE_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
        || name.contains('_')
        || !NOT_NOMINABLE.contains(&name)
            && nominated.any(|member| member.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

impl http_body::Body for Http2Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = std::mem::take(&mut self.0);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Recorded<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let mut record = self.record.lock().expect("nobody panics with it");
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                record
                    .data
                    .extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            }
            Poll::Ready(Some(Err(_))) => record.broken = true,
            Poll::Ready(None) => record.ended = true,
            Poll::Pending => {}
        }
        drop(record);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: http_body::Body + Unpin> Drop for Recorded<B> {
    fn drop(&mut self) {
        let ended = self.body.is_end_stream();
        if let Ok(mut record) = self.record.lock() {
            record.ended |= ended;
        }
    }
}
