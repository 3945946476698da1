use std::time::Duration;

use http::Request;
use http_body_util::Full;

use harness::{
    Stack,
    frames::{CANCEL, END_STREAM, NO_ERROR, REFUSED_STREAM, goaway, head, reset},
    https::get,
    load::Callers,
    raw::{self, Client, Reply, Upstream},
    scripted::Scripted,
};

#[tokio::test]
async fn a_server_that_restarted_costs_no_get_after_it() {
    let stack = Stack::new().await;
    let first = stack.server(&[]).await;
    let port = first.listening().await;
    let proxy = stack.proxy(port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let token = stack.token(|_| ());
    let mut running = first;
    for _ in 0..3 {
        let load = Callers::on(&https, &token);
        load.continues().await;
        assert_eq!(load.failed().await, 0);
        running.stop().await;
        running = stack.server_again(port).await;
    }
}

#[tokio::test]
async fn request_that_is_not_safe_is_sent_to_one_upstream_only() {
    let stack = Stack::new().await;
    for (method, sent) in [("GET", 2), ("POST", 1), ("DELETE", 1)] {
        let closing = |_: &raw::Message| Reply::Last(Vec::new());
        let upstreams = [
            Upstream::new(&stack, closing).await,
            Upstream::new(&stack, closing).await,
        ];
        let ports = upstreams.each_ref().map(|one| one.port);
        let proxy = stack.proxy_before(&ports, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let mut client = Client::sending(&https, request).await;
        assert_eq!(client.answer().await.unwrap().status(), 502, "{method}");
        let requests = upstreams.each_ref().map(|one| one.requests().len());
        assert_eq!(requests.iter().sum::<usize>(), sent, "{method}");
        assert!(
            requests.iter().all(|one| *one <= 1),
            "{method}: it is sent to another upstream"
        );
    }
}

/// Starts an upstream whose first connection answers each request with `refusal`. Later connections
/// answer 200.
async fn refusing(stack: &Stack, refusal: fn(u32) -> Vec<u8>) -> Scripted {
    Scripted::new(stack, move |mut peer| async move {
        while let Some(asked) = peer.asked().await {
            let answer = match peer.number {
                0 => refusal(asked.stream),
                _ => head(asked.stream, END_STREAM, &[(":status", "200")]),
            };
            peer.send(answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn request_that_http2_gives_back_unread_is_sent_again() {
    let refused = |stream| reset(stream, REFUSED_STREAM);
    let goaway = |_| goaway(0, NO_ERROR);
    let cancelled = |stream| reset(stream, CANCEL);
    let stack = Stack::new().await;
    for (name, refusal, method, status) in [
        ("REFUSED_STREAM", refused as fn(u32) -> Vec<u8>, "POST", 200),
        ("GOAWAY", goaway, "POST", 200),
        ("GOAWAY", goaway, "GET", 200),
        ("CANCEL", cancelled, "POST", 502),
        ("CANCEL", cancelled, "GET", 200),
    ] {
        let upstream = refusing(&stack, refusal).await;
        let proxy = stack.proxy(upstream.port, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let request = Request::builder()
            .method(method)
            .uri("/")
            .body(Full::default());
        let answer = https.send(request.unwrap()).await;
        assert_eq!(answer.status, status, "{name} {method}");
        let expected = if status == 200 { 2 } else { 1 };
        assert_eq!(upstream.connections(), expected, "{name} {method}");
    }
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
    let token = stack.bearer();
    let https = stack.https(proxy.listening().await);
    for step in 0..40 {
        let answer = https.send(get(&[("authorization", &token)])).await;
        assert_eq!(answer.status, 200, "{}", proxy.log().join("\n"));
        // The next request comes at about the time when the server closes its connection.
        tokio::time::sleep(idle - Duration::from_millis(10) + Duration::from_millis(step / 2))
            .await;
    }
}
