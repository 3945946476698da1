use harness::{
    Stack,
    process::{Process, free_ports},
    raw::{Client, Message},
};

use crate::{Proxied, get};

/// Returns the answer to a GET through the proxy on this port.
async fn asked(stack: &Stack, port: u16) -> Message {
    let mut client = Client::sending(&stack.https(port), get(&[])).await;
    client.answer().await.unwrap()
}

/// Returns the name of the hop that wrote a `Via` value of one member.
fn by(value: &str) -> &str {
    let (_, by) = value.split_once(' ').unwrap();
    by
}

#[tokio::test]
async fn proxy_in_front_of_a_proxy_forwards_p018() {
    let proxied = Proxied::new().await;
    let mut proxies = Vec::new();
    let mut port = proxied.https.port();
    for _ in 0..3 {
        let proxy = proxied.stack.proxy(port, &["--cores", "1"]).await;
        port = proxy.listening().await;
        proxies.push(proxy);
    }
    for expected in [4, 8] {
        let answer = asked(&proxied.stack, port).await;
        assert_eq!(answer.status(), 200, "P19");
        assert_eq!(answer.fields("via").len(), 4);
        let requests = proxied.upstream.requests();
        let mut hops: Vec<_> = requests.iter().flat_map(|one| one.fields("via")).collect();
        assert_eq!(hops.len(), expected);
        hops.iter_mut().for_each(|hop| *hop = by(hop));
        hops.sort_unstable();
        hops.dedup();
        assert_eq!(hops.len(), 4, "one name for each process: {hops:?}");
    }
}

/// Starts a proxy on `port` in front of the listener on `upstream`.
async fn proxy(stack: &Stack, port: u16, upstream: u16) -> Process {
    let listen = format!("127.0.0.1:{port}");
    let upstream = format!("https://127.0.0.1:{upstream}");
    let args = ["--listen", &listen, "--upstream", &upstream];
    let proxy = stack.spawn("proxy", &args);
    proxy.listening().await;
    proxy
}

#[tokio::test]
async fn request_in_a_circle_is_answered_with_508_p019() {
    let stack = Stack::new().await;
    let [alone] = free_ports();
    let itself = proxy(&stack, alone, alone).await;
    assert_eq!(asked(&stack, alone).await.status(), 508);
    itself.logged("goes in a circle").await;

    let [one, two, three] = free_ports();
    let circle = [
        proxy(&stack, one, two).await,
        proxy(&stack, two, three).await,
        proxy(&stack, three, one).await,
    ];
    assert_eq!(asked(&stack, two).await.status(), 508);
    circle[1].logged("goes in a circle").await;
}

#[tokio::test]
async fn request_that_was_here_before_is_answered_with_508_p019() {
    let proxied = Proxied::new().await;
    proxied.probe(get(&[])).await;
    let requests = proxied.upstream.requests();
    let own = by(requests[0].fields("via")[0]);
    let others = |count| {
        let other = |number| format!("1.1 spiffe-jwt-proxy-{number:x}");
        (0..count).map(other).collect::<Vec<_>>().join(",")
    };
    for (via, status) in [
        (format!("1.1 {own}"), 508),
        (
            format!("2.0 other, 1.1 {} (comment)", own.to_uppercase()),
            508,
        ),
        (others(11), 508),
        (others(10), 200),
        ("1.1 spiffe-jwt-proxy".to_owned(), 200),
        (format!("1.1 other ({own})"), 200),
    ] {
        let outcome = proxied.probe(get(&[&format!("Via: {via}")])).await;
        assert_eq!(outcome.status, status, "{via}");
        assert_eq!(outcome.forwarded.len(), usize::from(status == 200), "{via}");
        for forwarded in outcome.forwarded {
            let own = format!("1.1 {own}");
            assert_eq!(forwarded.fields("via"), [via.as_str(), &own], "P18");
        }
    }
}
