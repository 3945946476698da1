use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use common::{
    body::{self, Body},
    tls,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::Bytes;
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use harness::{
    PATIENCE, Stack,
    frames::{self, frame},
    https::{Https, get},
    process::Process,
    raw::{self, Answer, Client, Upstream},
    upstream::{self, Recording},
    x509::{Authority, Presenting},
};

/// A proxy before the upstreams on these ports.
async fn proxy(stack: &Stack, ports: &[u16], args: &[&str]) -> Process {
    let urls: Vec<_> = ports
        .iter()
        .map(|port| format!("https://127.0.0.1:{port}"))
        .collect();
    let mut all = vec!["--listen", "127.0.0.1:0"];
    for url in &urls {
        all.extend(["--upstream", url]);
    }
    let proxy = stack.spawn("proxy", &[&all, args].concat());
    proxy.listening().await;
    proxy
}

/// Counts its requests, and answers them.
async fn counting(stack: &Stack, alpn: &'static str) -> (u16, Arc<AtomicUsize>) {
    let requests = Arc::<AtomicUsize>::default();
    let port = upstream::answering(stack, &[alpn], {
        let requests = Arc::clone(&requests);
        move |_| {
            requests.fetch_add(1, SeqCst);
            async { body::status(StatusCode::OK) }
        }
    })
    .await;
    (port, requests)
}

/// Kept-alive callers that ask one GET after the other.
struct Load {
    callers: JoinSet<usize>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
}

impl Load {
    fn on(https: &Https, token: &str) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let (https, stop, answers) = (https.clone(), Arc::clone(&stop), Arc::clone(&answers));
            let request =
                format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
            callers.spawn(async move {
                let (mut client, mut failed) = (Client::new(&https).await, 0);
                while !stop.load(Relaxed) {
                    client.send(&request).await;
                    let answer = client.answer().await.expect("is kept");
                    failed += usize::from(answer.status() != 200);
                    answers.fetch_add(1, SeqCst);
                }
                failed
            });
        }
        Self {
            callers,
            stop,
            answers,
        }
    }

    /// Waits for some more answers.
    async fn goes_on(&self) {
        let enough = self.answers.load(SeqCst) + 200;
        until(async || self.answers.load(SeqCst) >= enough).await;
    }

    /// How many were not answered 200.
    async fn failed(self) -> usize {
        self.stop.store(true, Relaxed);
        self.callers.join_all().await.iter().sum()
    }
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("becomes so in time");
}

/// A server on a port of its own, which it has again when it is started again.
async fn server(stack: &Stack, port: u16) -> Process {
    let listen = format!("127.0.0.1:{port}");
    let server = stack.spawn("server", &["--listen", &listen]);
    server.listening().await;
    server
}

async fn stopped(mut server: Process) {
    server.signal(Signal::SIGTERM);
    server.ended().await;
}

#[tokio::test]
async fn the_load_is_spread_over_all_upstreams() {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let (first, second) = (counting(&stack, alpn).await, counting(&stack, alpn).await);
        let mut proxy = proxy(&stack, &[first.0, second.0], &[]).await;
        let load = Load::on(&stack.https(proxy.listening().await), "a.b.c");
        for _ in 0..5 {
            load.goes_on().await;
        }
        assert_eq!(load.failed().await, 0);
        let counts = [first.1.load(SeqCst), second.1.load(SeqCst)];
        let least = counts.iter().min().unwrap();
        assert!(*least * 4 > counts.iter().sum(), "{alpn}: {counts:?}");
        let log = proxy.whole_log().await;
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
}

#[tokio::test]
async fn one_core_has_several_connections_to_a_busy_upstream() {
    let stack = Stack::with(harness::SERVER_ID, |_| ()).await;
    let root = Authority::root();
    stack
        .agent
        .set_federated(vec![root.bundle("odd.test")])
        .unwrap();
    let upstream = Presenting::new("h2").await;
    upstream.present(&root.issue("spiffe://odd.test/server", |_| ()));
    let args = ["--upstream-id", "spiffe://odd.test/server", "--cores", "1"];
    let proxy = proxy(&stack, &[upstream.port], &args).await;
    let https = stack.https(proxy.listening().await);
    let (one, two) = (Load::on(&https, "a.b.c"), Load::on(&https, "a.b.c"));
    until(async || upstream.seen().connections() > 1).await;
    assert_eq!(one.failed().await + two.failed().await, 0);
    assert!(upstream.seen().connections() <= 3);
}

#[tokio::test]
async fn restarting_one_of_two_servers_fails_no_get() {
    let stack = Stack::new().await;
    let (one, other) = (server(&stack, 0).await, server(&stack, 0).await);
    let ports = [one.listening().await, other.listening().await];
    let proxy = proxy(&stack, &ports, &[]).await;
    let https = stack.https(proxy.listening().await);
    let load = Load::on(&https, &stack.token(|_| ()));
    load.goes_on().await;

    stopped(one).await;
    load.goes_on().await;
    let one = server(&stack, ports[0]).await;
    one.logged("Request received").await;
    load.goes_on().await;
    other.signal(Signal::SIGKILL);
    load.goes_on().await;

    assert_eq!(load.failed().await, 0, "{}", proxy.log().join("\n"));
    proxy
        .logged(&format!(
            "left out for now: cannot connect to https://127.0.0.1:{}",
            ports[0]
        ))
        .await;
}

#[tokio::test]
async fn a_server_that_restarted_costs_no_get_after_it() {
    let stack = Stack::new().await;
    let first = server(&stack, 0).await;
    let port = first.listening().await;
    let proxy = stack.proxy(port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let token = stack.token(|_| ());
    let mut running = first;
    for _ in 0..3 {
        let load = Load::on(&https, &token);
        load.goes_on().await;
        assert_eq!(load.failed().await, 0);
        stopped(running).await;
        running = server(&stack, port).await;
    }
}

#[tokio::test]
async fn an_impostor_among_two_gets_no_byte_and_the_other_serves_all() {
    let stack = Stack::with("spiffe://example.org/other", |_| ()).await;
    let impostor = Recording::new(&stack).await;
    let server = server(&stack, 0).await;
    let mut proxy = proxy(&stack, &[impostor.port, server.listening().await], &[]).await;
    let https = stack.https(proxy.listening().await);
    let load = Load::on(&https, &stack.token(|_| ()));
    load.goes_on().await;
    let line = proxy.logged("is not who it should be").await;
    assert!(line.contains(&impostor.port.to_string()), "{line}");
    load.goes_on().await;
    assert_eq!(load.failed().await, 0);
    assert_eq!(impostor.bytes.load(SeqCst), 0);
    let log = proxy.whole_log().await;
    let lines = log.matches("is not who it should be").count();
    assert!(
        lines <= common::runtime::available_cores(),
        "said once a core: {log}"
    );
}

#[tokio::test]
async fn what_may_have_an_effect_is_sent_to_one_upstream_only() {
    let stack = Stack::new().await;
    for (method, sent) in [("GET", 2), ("POST", 1), ("DELETE", 1)] {
        let closing = |_: &raw::Message| Answer::Last(Vec::new());
        let upstreams = [
            Upstream::new(&stack, closing).await,
            Upstream::new(&stack, closing).await,
        ];
        let ports = upstreams.each_ref().map(|one| one.port);
        let proxy = proxy(&stack, &ports, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let mut client = Client::sending(&https, request).await;
        assert_eq!(client.answer().await.unwrap().status(), 502, "{method}");
        let requests = upstreams.each_ref().map(|one| one.requests().len());
        assert_eq!(requests.iter().sum::<usize>(), sent, "{method}");
        assert!(
            requests.iter().all(|one| *one <= 1),
            "{method}: on another one"
        );
    }
}

/// What the first connection says to a request that it has not looked at; the next ones answer 200.
async fn refusing(stack: &Stack, refusal: fn(u32) -> Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let identity = stack.identity().await;
    let mut config = Arc::unwrap_or_clone(tls::server(&identity.x509).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let is_first = seen.fetch_add(1, SeqCst) == 0;
            tokio::spawn(async move {
                tls.write_all(&frame(frames::SETTINGS, 0, 0, &[]))
                    .await
                    .unwrap();
                let mut preface = [0; 24];
                tls.read_exact(&mut preface).await.unwrap();
                // Until the connection ends.
                while let Ok(stream) = next_request(&mut tls).await {
                    let answer = match is_first {
                        true => refusal(stream),
                        // 200, which HPACK has as one octet.
                        false => frame(
                            frames::HEADERS,
                            frames::END_STREAM | frames::END_HEADERS,
                            stream,
                            &[0x88],
                        ),
                    };
                    tls.write_all(&answer).await.unwrap();
                }
            });
        }
        drop(identity);
    });
    (port, connections)
}

/// Reads frames up to the next HEADERS; its stream.
async fn next_request(tls: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<u32> {
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        tls.read_exact(&mut vec![0; length]).await?;
        if head[3] == frames::HEADERS {
            return Ok(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

#[tokio::test]
async fn what_http2_gives_back_unread_is_sent_again() {
    let refused = |stream| {
        frame(
            frames::RST_STREAM,
            0,
            stream,
            &frames::REFUSED_STREAM.to_be_bytes(),
        )
    };
    // No stream was looked at, and there is no error.
    let goaway = |_| frame(frames::GOAWAY, 0, 0, &[0; 8]);
    // This one was looked at.
    let cancelled = |stream| frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let stack = Stack::new().await;
    for (name, refusal, method, status) in [
        ("REFUSED_STREAM", refused as fn(u32) -> Vec<u8>, "POST", 200),
        ("GOAWAY", goaway, "POST", 200),
        ("GOAWAY", goaway, "GET", 200),
        ("CANCEL", cancelled, "POST", 502),
        ("CANCEL", cancelled, "GET", 200),
    ] {
        let (port, connections) = refusing(&stack, refusal).await;
        let proxy = stack.proxy(port, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let request = Request::builder()
            .method(method)
            .uri("/")
            .body(Full::default());
        let answer = https.send(request.unwrap()).await;
        assert_eq!(answer.status, status, "{name} {method}");
        let expected = if status == 200 { 2 } else { 1 };
        assert_eq!(connections.load(SeqCst), expected, "{name} {method}");
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_left_out() {
    let stack = Stack::new().await;
    let hung = upstream::answering(&stack, &["h2"], async |_| std::future::pending().await).await;
    let (answering, requests) = counting(&stack, "h2").await;
    let args = ["--cores", "1", "--response-timeout", "300ms"];
    let proxy = proxy(&stack, &[hung, answering], &args).await;
    let https = stack.https(proxy.listening().await);
    until(async || https.send(get(&[])).await.status == 504).await;
    let before = requests.load(SeqCst);
    for _ in 0..10 {
        assert_eq!(https.send(get(&[])).await.status, 200);
    }
    assert_eq!(requests.load(SeqCst), before + 10);
    proxy.logged("left out for now").await;
}

#[tokio::test]
async fn if_all_are_left_out_the_caller_gets_the_true_reason() {
    let stack = Stack::new().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = mute
        .local_addr()
        .map(|address| (mute, address.port()))
        .unwrap();
    let proxy = proxy(&stack, &[1, 2], &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    for _ in 0..5 {
        assert_eq!(https.send(get(&[])).await.status, 502);
    }
    proxy.logged("https://127.0.0.1:1/ as").await;
    proxy.logged("https://127.0.0.1:2/ as").await;
    let args = ["--cores", "1", "--connect-timeout", "100ms"];
    let proxy = self::proxy(&stack, &[mute.1, 1], &args).await;
    let https = stack.https(proxy.listening().await);
    until(async || https.send(get(&[])).await.status == 504).await;
}

#[tokio::test]
async fn idle_connections_end_with_the_trust_that_opened_them() {
    let root = Authority::root();
    for alpn in ["h2", "http/1.1"] {
        let stack = Stack::new().await;
        stack
            .agent
            .set_federated(vec![root.bundle("odd.test")])
            .unwrap();
        let upstream = Presenting::new(alpn).await;
        upstream.present(&root.issue("spiffe://odd.test/server", |_| ()));
        let args = ["--upstream-id", "spiffe://odd.test/server"];
        let proxy = proxy(&stack, &[upstream.port], &args).await;
        let https = stack.https(proxy.listening().await);
        until(async || https.send(get(&[])).await.status == 200).await;
        let (connections, requests) = (upstream.seen().connections(), upstream.seen().requests());
        assert_eq!(upstream.seen().closed.load(SeqCst), 0);

        stack.agent.set_federated(vec![]).unwrap();

        until(async || upstream.seen().closed.load(SeqCst) == connections).await;
        assert_eq!(
            upstream.seen().requests(),
            requests,
            "{alpn}: without another request"
        );
    }
}

#[tokio::test]
async fn a_body_on_an_old_connection_is_not_cut() {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let echo = upstream::answering(&stack, &[alpn], async |request| {
            Response::new(Body::Upstream(request.into_body().into()))
        })
        .await;
        let proxy = stack.proxy(echo, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let (mut source, streamed) = Channel::<Bytes>::new(1);
        let request = Request::post("/").body(streamed).unwrap();
        let mut answer = https.start(Version::HTTP_2, request).await.into_body();
        let mut echoed = async |part: &'static str| {
            source.send_data(part.into()).await.unwrap();
            let frame = answer.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), part, "{alpn}");
        };
        echoed("before").await;
        for _ in 0..3 {
            stack.agent.rotate_ca();
            let https = stack.https(proxy.listening().await);
            until(async || https.try_connect(b"h2").await.is_ok()).await;
            stack.agent.drop_old_ca();
            let https = stack.https(proxy.listening().await);
            until(async || https.try_connect(b"h2").await.is_ok()).await;
            until(async || https.send(get(&[])).await.status == 200).await;
            echoed("after").await;
        }
    }
}

#[tokio::test]
async fn identities_that_rotate_under_load_fail_no_request() {
    let stack = Stack::new().await;
    let server = server(&stack, 0).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let load = Load::on(&stack.https(proxy.listening().await), &stack.token(|_| ()));
    for _ in 0..5 {
        load.goes_on().await;
        stack.agent.rotate_x509();
        load.goes_on().await;
        stack.agent.rotate_ca();
        load.goes_on().await;
        stack.agent.drop_old_ca();
    }
    load.goes_on().await;
    assert_eq!(load.failed().await, 0, "{}", proxy.log().join("\n"));
}

#[tokio::test]
async fn a_connection_that_closes_as_it_is_used_fails_no_get() {
    let stack = Stack::new().await;
    let idle = Duration::from_millis(60);
    let server = stack.spawn(
        "server",
        &["--listen", "127.0.0.1:0", "--idle-timeout", "60ms"],
    );
    let proxy = stack
        .proxy(server.listening().await, &["--cores", "1"])
        .await;
    let token = format!("Bearer {}", stack.token(|_| ()));
    let https = stack.https(proxy.listening().await);
    for step in 0..40 {
        let answer = https.send(get(&[("authorization", &token)])).await;
        assert_eq!(answer.status, 200, "{}", proxy.log().join("\n"));
        // Just about when the server closes its connection.
        tokio::time::sleep(idle - Duration::from_millis(10) + Duration::from_millis(step / 2))
            .await;
    }
}

#[tokio::test]
async fn a_name_whose_addresses_are_not_all_listened_on_is_no_news() {
    let stack = Stack::new().await;
    let (port, _) = counting(&stack, "h2").await;
    let mut proxy = stack.proxy(port, &[]).await;
    let https = stack.https(proxy.listening().await);
    for _ in 0..20 {
        assert_eq!(https.send(get(&[])).await.status, 200);
    }
    let log = proxy.whole_log().await;
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}
