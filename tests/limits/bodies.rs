use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use harness::{
    PATIENCE, Stack,
    frames::{self, Frames},
    https::get,
    process::Process,
    upstream,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Bytes;
use serve::body::{self, Body};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{SOON, ask, read_to_end};

/// Runs a proxy in front of an upstream that answers with the length of the request's body. Counts
/// the requests that came to the upstream, and those that came whole.
struct Counting {
    stack: Stack,
    proxy: Process,
    begun: Arc<AtomicUsize>,
    whole: Arc<AtomicUsize>,
}

impl Counting {
    async fn new(args: &[&str]) -> Self {
        let stack = Stack::new().await;
        let (begun, whole) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let upstream = upstream::answering(&stack, &["h2"], {
            let (begun, whole) = (Arc::clone(&begun), Arc::clone(&whole));
            move |request: Request<hyper::body::Incoming>| {
                let (begun, whole) = (Arc::clone(&begun), Arc::clone(&whole));
                async move {
                    begun.fetch_add(1, SeqCst);
                    match request.into_body().collect().await {
                        Ok(body) => {
                            whole.fetch_add(1, SeqCst);
                            body::text(StatusCode::OK, body.to_bytes().len().to_string())
                        }
                        Err(_) => body::status(StatusCode::IM_A_TEAPOT),
                    }
                }
            }
        })
        .await;
        let proxy = stack.proxy(upstream, args).await;
        Self {
            stack,
            proxy,
            begun,
            whole,
        }
    }
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}").into()
}

#[tokio::test]
async fn body_over_the_bound_is_refused_p133() {
    let counting = Counting::new(&["--max-body", "1000"]).await;
    let https = counting.stack.https(counting.proxy.listening().await);
    let of = |bytes: usize| {
        Request::post("/")
            .body(Full::new(Bytes::from(vec![b'a'; bytes])))
            .unwrap()
    };
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = https.send_over(version, of(1000)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"1000"[..])
        );
        let begun = counting.begun.load(SeqCst);
        let answer = https.send_over(version, of(1001)).await;
        assert_eq!(answer.status, 413, "P133 {version:?}");
        assert_eq!(
            counting.begun.load(SeqCst),
            begun,
            "P133: it is not forwarded"
        );
    }
    let length = ask(&https, &post("Content-Length: 1001\r\n", "")).await;
    assert!(
        length.starts_with("HTTP/1.1 413 "),
        "P133: it is answered at once: {length}"
    );
    assert!(length.contains("connection: close"), "{length}");

    let whole = counting.whole.load(SeqCst);
    let chunk = format!("3e9\r\n{}\r\n", "a".repeat(1001));
    let chunked = ask(&https, &post("Transfer-Encoding: chunked\r\n", &chunk)).await;
    assert!(chunked.starts_with("HTTP/1.1 413 "), "P134: {chunked}");
    assert!(chunked.contains("connection: close"), "P134: {chunked}");
    assert_eq!(
        counting.whole.load(SeqCst),
        whole,
        "P134: the request to the upstream is aborted"
    );
}

#[tokio::test]
async fn http2_body_without_a_length_is_refused_over_the_bound_p134() {
    let counting = Counting::new(&["--max-body", "1000"]).await;
    let https = counting.stack.https(counting.proxy.listening().await);
    let frames = futures(vec![b'a'; 600], 2);
    let request = Request::post("/").body(StreamBody::new(frames)).unwrap();
    let answer = https.send_over(Version::HTTP_2, request).await;
    assert_eq!(answer.status, 413);
    assert_eq!(counting.whole.load(SeqCst), 0);
}

/// Returns a body of unknown length.
fn futures(
    chunk: Vec<u8>,
    count: usize,
) -> impl futures_util::Stream<Item = Result<hyper::body::Frame<Bytes>, std::convert::Infallible>> {
    futures_util::stream::iter(
        (0..count).map(move |_| Ok(hyper::body::Frame::data(chunk.clone().into()))),
    )
}

#[tokio::test]
async fn request_body_that_stands_still_is_given_up_p139() {
    let counting = Counting::new(&["--body-timeout", SOON]).await;
    let https = counting.stack.https(counting.proxy.listening().await);

    let stopped = ask(&https, &post("Content-Length: 9\r\n", "half")).await;
    assert!(stopped.starts_with("HTTP/1.1 408 "), "{stopped}");
    assert!(stopped.contains("connection: close"), "{stopped}");

    let mut tls = https.connect(b"http/1.1").await;
    tls.write_all(&post("Content-Length: 99999\r\n", ""))
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(tls);
    let trickling = async {
        while write.write_all(b"a").await.is_ok() && write.flush().await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
        std::future::pending().await
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = trickling => {}
        read = timeout(PATIENCE, read.read_exact(&mut answer)) => { read.unwrap().unwrap(); }
    }
    assert_eq!(
        &answer, b"HTTP/1.1 408",
        "one byte at a time is not enough progress"
    );

    let mut http2 = Frames::connect(&https, &[]).await;
    let headers = frames::frame(frames::HEADERS, frames::END_HEADERS, 1, frames::POST);
    http2.send(&headers).await;
    let answered = async {
        loop {
            let frame = http2.next().await.unwrap();
            if frame.kind == frames::HEADERS {
                break frame;
            }
        }
    };
    timeout(PATIENCE, answered)
        .await
        .expect("is answered in time");
    assert_eq!(counting.whole.load(SeqCst), 0);
}

#[tokio::test]
async fn slow_body_that_moves_is_served_p139() {
    let counting = Counting::new(&["--body-timeout", "2s"]).await;
    let https = counting.stack.https(counting.proxy.listening().await);
    let mut tls = https.connect(b"http/1.1").await;
    let length = format!("Content-Length: {}\r\nConnection: close\r\n", 30 * 1024);
    tls.write_all(&post(&length, "")).await.unwrap();
    for _ in 0..30 {
        tls.write_all(&[b'a'; 1024]).await.unwrap();
        tls.flush().await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    let answer = read_to_end(&mut tls).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("30720"),
        "{answer}"
    );
}

/// A body of this length fills every buffer between the upstream and the caller.
const ENDLESS: usize = 64 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_that_is_not_read_ends_and_takes_no_memory_p140() {
    let stack = Stack::new().await;
    let endless = upstream::answering(&stack, &["h2"], async |_| {
        Response::new(Body::full(Bytes::from(vec![b'a'; ENDLESS])))
    })
    .await;
    let upstream = format!("https://localhost:{endless}");
    let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    let args = [&args[..], &["--body-timeout", "500ms"]].concat();
    let proxy = stack.spawn_with("proxy", &args, &[("RUST_LOG", "info,serve=debug")]);
    let https = stack.https(proxy.listening().await);
    let before = proxy.peak_memory();

    let mut http1 = https.connect(b"http/1.1").await;
    http1
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    http1.flush().await.unwrap();
    let mut one = [0; 1];
    http1.read_exact(&mut one).await.unwrap();

    // The window of the stream stays closed, but the connection is read. Therefore only the stream
    // ends.
    let mut http2 = Frames::connect(&https, &[]).await;
    http2.send(&frames::request(1, frames::GET, &[])).await;
    let reset = async {
        loop {
            let frame = http2.next().await.expect("the connection is kept");
            if frame.kind == frames::RST_STREAM {
                break frame.stream;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, reset).await.expect("is reset in time"), 1);
    http2.send(&frames::request(3, frames::GET, &[])).await;
    let answered = async { while http2.next().await.expect("is kept").kind != frames::HEADERS {} };
    timeout(PATIENCE, answered)
        .await
        .expect("other streams of it are served");

    // It is closed while nothing of it is read.
    let (tcp, _) = http1.get_ref();
    let ended = format!("connection ended peer={}", tcp.local_addr().unwrap());
    proxy.logged(&ended).await;
    let rest = read_to_end(&mut http1).await.len();
    assert!(rest < ENDLESS, "P140: all of it came");
    let grown = proxy.peak_memory_above(before);
    assert!(grown < 16 * 1024, "the proxy grew by {grown} KiB");
    assert_eq!(https.send(get(&[])).await.status, 200);
}

#[tokio::test]
async fn coded_body_passes_unchanged_p154() {
    let stack = Stack::new().await;
    let gzip: &[u8] = b"\x1f\x8b\x08\x00bomb";
    let coded = upstream::answering(&stack, &["h2"], move |_| async move {
        let mut response = Response::new(Body::full(Bytes::from_static(gzip)));
        response
            .headers_mut()
            .insert("content-encoding", "gzip".parse().unwrap());
        response
    })
    .await;
    let proxy = stack.proxy(coded, &[]).await;
    let answer = stack.https(proxy.listening().await).send(get(&[])).await;
    assert_eq!(answer.headers["content-encoding"], "gzip");
    assert_eq!(answer.body, gzip);
}
