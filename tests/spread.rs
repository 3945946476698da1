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

use http::{StatusCode, Version};
use nix::sys::signal::Signal;
use serve::body;
use tokio::{net::TcpListener, task::JoinSet};

use harness::{
    PATIENCE, Stack,
    https::{Https, get},
    process::Process,
    raw::Client,
    upstream::{self, Recording},
    x509::{Authority, NEVER, Presenting},
};

/// A proxy before the upstreams on these ports.
pub(crate) async fn proxy(stack: &Stack, ports: &[u16], args: &[&str]) -> Process {
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
pub(crate) struct Load {
    callers: JoinSet<usize>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
}

impl Load {
    pub(crate) fn on(https: &Https, token: &str) -> Self {
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
    pub(crate) async fn goes_on(&self) {
        let enough = self.answers.load(SeqCst) + 200;
        until(async || self.answers.load(SeqCst) >= enough).await;
    }

    /// How many were not answered 200.
    pub(crate) async fn failed(self) -> usize {
        self.stop.store(true, Relaxed);
        self.callers.join_all().await.iter().sum()
    }
}

pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
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
pub(crate) async fn server(stack: &Stack, port: u16) -> Process {
    let listen = format!("127.0.0.1:{port}");
    let server = stack.spawn("server", &["--listen", &listen]);
    server.listening().await;
    server
}

pub(crate) async fn stopped(mut server: Process) {
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
    let stack = Stack::new().await;
    let root = Authority::root();
    stack
        .agent
        .set_federated(vec![root.bundle("odd.test")])
        .unwrap();
    let upstream = Presenting::new("h2").await;
    upstream.present(&root.issue("spiffe://odd.test/server", |_| ()));
    let target = ["--upstream-id", "spiffe://odd.test/server", "--path", NEVER];
    let args = [&target[..], &["--cores", "1"]].concat();
    let proxy = proxy(&stack, &[upstream.port], &args).await;
    let https = stack.https(proxy.listening().await);
    let mut waiting = JoinSet::new();
    for (requests, connections) in [(32, 1), (40, 2), (100, 3), (120, 3)] {
        while waiting.len() < requests {
            let https = https.clone();
            waiting.spawn(async move {
                let mut request = get(&[]);
                *request.uri_mut() = NEVER.parse().unwrap();
                https.send_over(Version::HTTP_2, request).await
            });
            // One by one: a connection takes requests when its upstream has answered a PING.
            until(async || upstream.seen().requests() == waiting.len()).await;
        }
        let seen = upstream.seen();
        until(async || seen.requests() == requests && seen.connections() >= connections).await;
        assert_eq!(seen.connections(), connections, "for {requests}");
    }
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
        lines <= process::runtime::available_cores(),
        "said once a core: {log}"
    );
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
