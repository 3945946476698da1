use std::sync::{Arc, Mutex};

use harness::{
    PATIENCE, https::Https, proxy_stack::ProxyStack, raw::Client, upstream::ConnectionNumber,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serve::body;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use crate::{CANARY, holding::post, request};

/// The number of fields of an answer, and the length of each.
#[derive(Clone, Copy, Debug)]
struct Fields {
    count: usize,
    length: usize,
    /// All of them have the same name.
    is_one_name: bool,
}

const fn fields(count: usize, length: usize) -> Fields {
    Fields {
        count,
        length,
        is_one_name: false,
    }
}

const fn one_name(count: usize, length: usize) -> Fields {
    Fields {
        count,
        length,
        is_one_name: true,
    }
}

/// These heads are within 64 KiB and 256 fields.
const CROSSING: [Fields; 6] = [
    fields(1, 40_000),
    fields(40, 1000),
    one_name(40, 1000),
    fields(1, 63_000),
    fields(240, 10),
    one_name(240, 200),
];

/// These heads are over 64 KiB or over 256 fields.
const TOO_LARGE: [Fields; 6] = [
    fields(1, 70_000),
    fields(70, 1000),
    one_name(200, 1500),
    fields(257, 1),
    one_name(1000, 1),
    fields(5000, 30),
];

/// Holds a proxy and its upstream, which holds POSTs and answers GETs with these fields.
struct Proxied {
    stack: ProxyStack<u16>,
    arrived: mpsc::UnboundedReceiver<usize>,
    release: Arc<Semaphore>,
}

impl Proxied {
    async fn new(alpn: &str, fields: Fields) -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        let (sender, held) = (Mutex::new(sender), Arc::clone(&release));
        let args = ["--cores", "1", "--path", "/", "--path", "/canary"];
        let stack = ProxyStack::answering(&[alpn], &args, move |request| {
            let sender = sender.lock().unwrap().clone();
            let held = Arc::clone(&held);
            async move { answer(request, fields, &sender, &held).await }
        })
        .await;
        Self {
            stack,
            arrived,
            release,
        }
    }

    /// Returns the number of the connection that the next request arrives on.
    async fn arrives(&mut self) -> usize {
        let next = timeout(PATIENCE, self.arrived.recv());
        next.await.expect("arrives in time").unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    fields: Fields,
    arrived: &mpsc::UnboundedSender<usize>,
    release: &Semaphore,
) -> Response<body::Body> {
    let number = request.extensions().get::<ConnectionNumber>().unwrap().0;
    match (request.uri().path(), request.method().as_str()) {
        ("/", "POST") => {
            arrived.send(number).unwrap();
            release.acquire().await.unwrap().forget();
            body::text(StatusCode::OK, "held")
        }
        ("/", _) => {
            arrived.send(number).unwrap();
            with_fields(fields)
        }
        (path, _) => body::text(StatusCode::OK, path.to_owned()),
    }
}

fn with_fields(fields: Fields) -> Response<body::Body> {
    let mut response = body::text(StatusCode::OK, "large");
    for number in 0..fields.count {
        let number = if fields.is_one_name { 0 } else { number };
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        let value = "v".repeat(fields.length).parse().unwrap();
        response.headers_mut().append(name, value);
    }
    response
}

/// Sends a GET over HTTP/2 and accepts heads of any size.
async fn get_over_http2(https: &Https) -> (u16, http::HeaderMap, Bytes) {
    let io = TokioIo::new(https.connect(b"h2").await);
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(1 << 24)
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(Full::<Bytes>::default());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, body)
}

const HELD: usize = 8;

/// Sends POSTs over both versions and returns once the upstream holds them.
async fn held(proxied: &mut Proxied) -> (JoinSet<u16>, Vec<usize>) {
    let (mut answers, mut numbers) = (JoinSet::new(), Vec::new());
    for number in 0..HELD {
        let https = proxied.stack.https.from("127.0.0.2");
        let version = [Version::HTTP_11, Version::HTTP_2][number % 2];
        answers.spawn(async move {
            let answer = https.send_over(version, post("/", 100 * number)).await;
            answer.status.as_u16()
        });
    }
    for _ in 0..HELD {
        numbers.push(proxied.arrives().await);
    }
    (answers, numbers)
}

/// Requests such an answer over both versions, next to requests in flight and before another one.
async fn check(alpn: &str, fields: Fields, crosses: bool) {
    let what = format!("{alpn} {fields:?}");
    let mut proxied = Proxied::new(alpn, fields).await;
    let (answers, numbers) = held(&mut proxied).await;
    let bytes = request(&["GET / HTTP/1.1", "Host: a"], "");
    let mut client = Client::sending(&proxied.stack.https, bytes).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status(), if crosses { 200 } else { 502 }, "{what}");
    let own = answer.head.lines().filter(|line| line.starts_with("x-"));
    assert_eq!(
        own.count(),
        if crosses { fields.count } else { 0 },
        "{what}"
    );
    let number = proxied.arrives().await;
    if alpn == "h2" {
        let is_shared = numbers.iter().all(|other| *other == number);
        assert!(is_shared, "{what}: {number} {numbers:?}");
    }
    client.send(CANARY).await;
    assert_eq!(client.answer().await.unwrap().body, b"/canary", "{what}");

    let (status, headers, body) = get_over_http2(&proxied.stack.https).await;
    assert_eq!(status, if crosses { 200 } else { 502 }, "{what}");
    let own = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-"));
    assert_eq!(
        own.count(),
        if crosses { fields.count } else { 0 },
        "{what}"
    );
    assert_eq!(body == "large", crosses, "{what}");

    proxied.release.add_permits(HELD);
    let statuses = timeout(PATIENCE, answers.join_all())
        .await
        .expect("all come in time");
    let log = proxied.stack.proxy.log().join("\n");
    assert_eq!(statuses, [200; HELD], "{what}: {log}");
}

#[tokio::test]
async fn large_head_within_its_bounds_crosses_over_http2() {
    for fields in CROSSING {
        check("h2", fields, true).await;
    }
}

#[tokio::test]
async fn large_head_within_its_bounds_crosses_over_http1() {
    for fields in CROSSING {
        check("http/1.1", fields, true).await;
    }
}

#[tokio::test]
async fn head_over_its_bounds_is_502_for_its_own_request_only_over_http2() {
    for fields in TOO_LARGE {
        check("h2", fields, false).await;
    }
}

#[tokio::test]
async fn head_over_its_bounds_is_502_for_its_own_request_only_over_http1() {
    for fields in TOO_LARGE {
        check("http/1.1", fields, false).await;
    }
}

#[tokio::test]
async fn head_of_more_than_1_mib_is_502_for_its_own_request_only() {
    for alpn in ["h2", "http/1.1"] {
        for fields in [fields(1, 1_500_000), fields(300, 10_000)] {
            check(alpn, fields, false).await;
        }
    }
}
