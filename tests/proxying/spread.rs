use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{StatusCode, Version};
use nix::sys::signal::Signal;
use serve::body;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, timeout},
};

use harness::{
    PATIENCE, Stack,
    https::get,
    load::Callers,
    raw::{self, Client},
    upstream::{self, Recording},
    wait::until,
    x509::{Authority, NEVER, Presenting},
};

/// Returns the warnings and errors in a log, except that about an agent that answers late.
fn warnings(log: &str) -> Vec<&str> {
    let is_warning = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let lines = log.lines().filter(is_warning);
    lines
        .filter(|line| !line.contains("lost the Workload API"))
        .collect()
}

/// Starts an upstream that counts its requests and answers them.
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

#[tokio::test]
async fn the_load_is_spread_over_all_upstreams() {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let (first, second) = (counting(&stack, alpn).await, counting(&stack, alpn).await);
        let mut proxy = stack.proxy_before(&[first.0, second.0], &[]).await;
        let load = Callers::on(&stack.https(proxy.listening().await), "a.b.c");
        for _ in 0..5 {
            load.continues().await;
        }
        assert_eq!(load.failed().await, 0);
        let counts = [first.1.load(SeqCst), second.1.load(SeqCst)];
        let least = counts.iter().min().unwrap();
        assert!(*least * 4 > counts.iter().sum(), "{alpn}: {counts:?}");
        assert_eq!(warnings(&proxy.whole_log().await), [""; 0]);
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
    let proxy = stack.proxy_before(&[upstream.port], &args).await;
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
            // The requests come one by one, because a connection accepts more once its upstream has
            // answered a PING.
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
    let (one, other) = (stack.server(&[]).await, stack.server(&[]).await);
    let ports = [one.listening().await, other.listening().await];
    let proxy = stack.proxy_before(&ports, &[]).await;
    let https = stack.https(proxy.listening().await);
    let load = Callers::on(&https, &stack.token(|_| ()));
    load.continues().await;

    one.stop().await;
    load.continues().await;
    let one = stack.server_again(ports[0]).await;
    one.logged("Request received").await;
    load.continues().await;
    other.signal(Signal::SIGKILL);
    load.continues().await;

    assert_eq!(load.failed().await, 0, "{}", proxy.log().join("\n"));
    proxy
        .logged(&format!(
            "ejected for now: cannot connect to https://127.0.0.1:{}",
            ports[0]
        ))
        .await;
}

#[tokio::test]
async fn an_impostor_among_two_gets_no_byte_and_the_other_serves_all() {
    let stack = Stack::with("spiffe://example.org/other", |_| ()).await;
    let impostor = Recording::new(&stack).await;
    let server = stack.server(&[]).await;
    let mut proxy = stack
        .proxy_before(&[impostor.port, server.listening().await], &[])
        .await;
    let https = stack.https(proxy.listening().await);
    let load = Callers::on(&https, &stack.token(|_| ()));
    load.continues().await;
    let line = proxy.logged("is not who it should be").await;
    assert!(line.contains(&impostor.port.to_string()), "{line}");
    load.continues().await;
    assert_eq!(load.failed().await, 0);
    assert_eq!(impostor.bytes.load(SeqCst), 0);
    let log = proxy.whole_log().await;
    let lines = log.matches("is not who it should be").count();
    assert!(
        lines <= process::runtime::available_cores(),
        "it is logged at most once per core: {log}"
    );
}

/// Sends requests until one is answered 504. Returns the time when that one was sent, and the number of
/// requests before it, which were answered 200.
async fn until_504(client: &mut Client) -> (Instant, usize) {
    for before in 0.. {
        let sent = Instant::now();
        client.send(raw::get("")).await;
        match client.answer().await.unwrap().status() {
            504 => return (sent, before),
            status => assert_eq!(status, 200),
        }
    }
    unreachable!("the requests never end")
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_ejected() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    const SHORTEST_PAUSE: Duration = Duration::from_millis(750);
    let stack = Stack::new().await;
    let hung = upstream::answering(&stack, &["h2"], async |_| std::future::pending().await).await;
    let (answering, requests) = counting(&stack, "h2").await;
    let args = ["--cores", "1", "--response-timeout", "2s"];
    let proxy = stack.proxy_before(&[hung, answering], &args).await;
    let mut client = Client::new(&stack.https(proxy.listening().await)).await;
    let mut next = async || {
        let next = timeout(PATIENCE, until_504(&mut client)).await;
        next.expect("the upstream is tried in time")
    };
    let (mut failed, before) = next().await;
    let mut answered = 0;
    while answered < 10 {
        let (again, between) = next().await;
        // Both requests waited for their timeout. Between them the other upstream had all.
        assert!(failed.elapsed() >= TIMEOUT + SHORTEST_PAUSE + TIMEOUT);
        failed = again;
        answered += between;
    }
    assert_eq!(requests.load(SeqCst), before + answered);
    proxy.logged("ejected for now").await;
}

#[tokio::test]
async fn if_all_are_ejected_the_caller_gets_the_true_reason() {
    let stack = Stack::new().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = mute
        .local_addr()
        .map(|address| (mute, address.port()))
        .unwrap();
    let proxy = stack.proxy_before(&[1, 2], &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    for _ in 0..5 {
        assert_eq!(https.send(get(&[])).await.status, 502);
    }
    proxy.logged("https://127.0.0.1:1/ as").await;
    proxy.logged("https://127.0.0.1:2/ as").await;
    let args = ["--cores", "1", "--connect-timeout", "100ms"];
    let proxy = stack.proxy_before(&[mute.1, 1], &args).await;
    let https = stack.https(proxy.listening().await);
    until(async || https.send(get(&[])).await.status == 504).await;
}

/// Returns whether an address of `localhost` refuses connections to this port.
async fn an_address_refuses(port: u16) -> bool {
    for address in lookup_host(("localhost", port)).await.unwrap() {
        if TcpStream::connect(address).await.is_err() {
            return true;
        }
    }
    false
}

/// The upstream listens on 127.0.0.1 alone. The proxy is given its name, which also has `::1` on most
/// machines.
#[tokio::test]
async fn name_with_an_address_that_refuses_causes_no_warning() {
    let stack = Stack::new().await;
    let (port, _) = counting(&stack, "h2").await;
    if !an_address_refuses(port).await {
        harness::skip("localhost has no other address than 127.0.0.1 on this machine");
        return;
    }
    let mut proxy = stack.proxy(port, &[]).await;
    let https = stack.https(proxy.listening().await);
    for _ in 0..20 {
        assert_eq!(https.send(get(&[])).await.status, 200);
    }
    assert_eq!(warnings(&proxy.whole_log().await), [""; 0]);
}
