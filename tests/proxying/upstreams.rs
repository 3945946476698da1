use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};

use harness::{
    PATIENCE, SERVER_ID, Stack,
    listen::listen,
    proxy_stack::ProxyStack,
    raw::{self, Client, Reply, Upstream},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};

use crate::{CANARY, FRESH, Proxied, get, post, request};

#[tokio::test]
async fn absent_upstream_is_502_and_silent_upstream_is_504_p155_p157() {
    // P155 is an upstream that refuses or does not resolve; P157 is one that is slow to answer.
    let proxied = Proxied::answered(|_| Reply::Silence, &["--response-timeout", "200ms"]).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().status(), 504, "P157");
    proxied.upstream.wait(|all| all[0].ended).await;

    for upstream in ["https://127.0.0.1:1", "https://no-such-host.invalid:1"] {
        // A resolver that does not answer is given up after 10 s.
        let args = [
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            upstream,
            "--connect-timeout",
            "30s",
        ];
        let proxy = proxied.stack.spawn("proxy", &args);
        let https = proxied.stack.https(proxy.listening().await);
        let answer = Client::sending(&https, get(&[]))
            .await
            .answer()
            .await
            .unwrap();
        assert_eq!(
            (answer.status(), answer.body.as_slice()),
            (502, &b"502 Bad Gateway\n"[..]),
            "P155"
        );
        proxy.logged("cannot connect to https://").await;
    }
}

#[tokio::test]
async fn slow_upload_does_not_count_as_the_upstreams_time_p157() {
    let proxied = Proxied::answered(raw::echo, &["--response-timeout", "2s"]).await;
    let mut client = Client::sending(&proxied.https, post(&["Content-Length: 10"], "")).await;
    for part in ["ab", "cd", "ef", "gh", "ij"] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        client.send(part).await;
    }
    assert_eq!(client.answer().await.unwrap().status(), 200);
    assert_eq!(proxied.upstream.requests()[0].body, b"abcdefghij");
}

#[tokio::test]
async fn upstream_with_another_id_is_502_p156() {
    let other = "spiffe://example.org/other";
    let proxied = Proxied::answered(raw::echo, &["--upstream-id", other]).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(
        (answer.status(), answer.body.as_slice()),
        (502, &b"502 Bad Gateway\n"[..])
    );
    assert!(
        proxied
            .upstream
            .connections()
            .iter()
            .all(|one| one.bytes.is_empty())
    );
    let line = proxied.proxy.logged("is not who it should be").await;
    assert!(line.contains(other) && line.contains(SERVER_ID), "{line}");
}

#[tokio::test]
async fn without_an_identity_to_verify_by_the_answer_is_503_p158() {
    // The upstream keeps its identity when the proxy loses its own.
    let other = "spiffe://example.org/other";
    let stack = Stack::with(other, |_| ()).await;
    let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::new(&stack, |_| Reply::Last(last.into())).await;
    let proxy = stack.proxy(upstream.port, &["--upstream-id", other]).await;
    let https = stack.https(proxy.listening().await);
    let mut client = Client::sending(&https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().status(), 200);
    stack.agent.withdraw(&SERVER_ID.parse().unwrap());
    proxy.logged("identity withdrawn").await;
    client.send(get(&[])).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status(), 503, "{:?}", proxy.log());
    assert_eq!(answer.fields("retry-after"), ["5"]);
}

/// Answers the first request of a connection, and closes it once the second one came.
fn closing_on_the_second() -> impl Fn(&raw::Message) -> Reply + Send + Sync {
    let requests = AtomicUsize::new(0);
    move |request| match requests.fetch_add(1, SeqCst) {
        0 => raw::echo(request),
        1 => Reply::Last(Vec::new()),
        _ => raw::echo(request),
    }
}

#[tokio::test]
async fn upstream_that_closes_instead_of_answering_is_502_p159() {
    for (number, first, sent) in [
        ("P159 P161", get(&[]), 2),
        ("P159 P161", request(&["HEAD / HTTP/1.1", "Host: a"], ""), 2),
        ("P162", request(&["DELETE / HTTP/1.1", "Host: a"], ""), 1),
        ("P162", post(&["Content-Length: 2"], "ab"), 1),
        (
            "P162",
            request(&["GET / HTTP/1.1", "Host: a", "Content-Length: 2"], "ab"),
            1,
        ),
    ] {
        let proxied = Proxied::answered(|_| Reply::Last(Vec::new()), &[]).await;
        let mut client = Client::sending(&proxied.https, &first).await;
        let method = first.split(' ').next().unwrap();
        let status = client.answer_to(method).await.unwrap().status();
        assert_eq!(status, 502, "{number} {method}");
        let connections = proxied.upstream.connections();
        assert_eq!(
            connections.len(),
            sent,
            "{number} {method}: each has its own connection"
        );
        assert_eq!(proxied.upstream.requests().len(), sent, "{number} {method}");
    }
}

#[tokio::test]
async fn get_on_a_connection_that_closes_is_sent_again_and_post_is_502_p161() {
    for (number, second, status) in [
        ("P161", get(&[]), 200),
        ("P162", post(&["Content-Length: 2"], "ab"), 502),
        ("P162", post(&["Content-Length: 0"], ""), 502),
    ] {
        let proxied = Proxied::answered(closing_on_the_second(), &[]).await;
        let begun = Instant::now();
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        assert_eq!(client.answer().await.unwrap().status(), 200);
        client.send(second).await;
        assert_eq!(client.answer().await.unwrap().status(), status, "{number}");
        let is_late = begun.elapsed() >= FRESH;
        let connections = proxied.upstream.connections();
        let requests: Vec<_> = connections.iter().map(|one| one.requests.len()).collect();
        let expected: &[&[usize]] = match (status, is_late) {
            (200, _) => &[&[2, 1]],
            (_, false) => &[&[2]],
            // A POST is not sent over a connection that was idle for so long.
            (_, true) => &[&[2], &[1, 1]],
        };
        assert!(expected.contains(&&requests[..]), "{number} {requests:?}");
        client.send(CANARY).await;
        assert_eq!(client.answer().await.unwrap().body, b"/canary", "{number}");
    }
}

#[tokio::test]
async fn pooled_connection_that_closed_fails_no_request_p160() {
    let first = AtomicUsize::new(0);
    let proxied = Proxied::answered(
        move |request| match first.fetch_add(1, SeqCst) {
            // The upstream closes without an announcement, so that the pool learns of it only by
            // the end.
            0 => Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()),
            _ => raw::echo(request),
        },
        &[],
    )
    .await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().status(), 200);
    client.send(post(&["Content-Length: 2"], "ab")).await;
    assert_eq!(client.answer().await.unwrap().status(), 200);
    let connections = proxied.upstream.connections();
    assert_eq!(connections[1].requests[0].body, b"ab");
}

#[tokio::test]
async fn error_statuses_of_the_upstream_cross_p164() {
    for status in [
        "500 Internal Server Error",
        "503 Service Unavailable",
        "429 Too Many Requests",
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
        let proxied = Proxied::answered(move |_| Reply::Bytes(answer.clone().into()), &[]).await;
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status().to_string(), status[..3]);
        assert_eq!(answer.fields("retry-after"), ["7"]);
        assert_eq!(proxied.upstream.requests().len(), 1, "it is not sent again");
    }
}

#[tokio::test]
async fn answer_that_comes_before_the_whole_body_crosses_p167() {
    let early = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let proxied = Proxied::answered(move |_| Reply::Early(early.into()), &[]).await;
    let mut client =
        Client::sending(&proxied.https, post(&["Content-Length: 1000000"], "abc")).await;
    assert_eq!(client.answer().await.unwrap().status(), 413);
    client.send("more").await;
    assert_eq!(
        client.answer().await,
        None,
        "the rest of the body is not a request"
    );
    // P166: a connection with half a request on it is not used again.
    proxied.upstream.wait(|all| all[0].ended).await;
    assert!(proxied.upstream.requests().is_empty());
}

#[tokio::test]
async fn client_that_leaves_while_it_waits_cancels_its_request_upstream_p168() {
    for half_closed in [false, true] {
        let proxied = Proxied::answered(|_| Reply::Silence, &["--response-timeout", "1h"]).await;
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        proxied
            .upstream
            .wait(|all| all.iter().any(|one| one.requests.len() == 1))
            .await;
        if half_closed {
            // P169: the proxy cannot tell a half-closed connection from a caller that left. Like
            // most proxies, it treats both alike.
            client.finish().await;
        } else {
            drop(client);
        }
        let cancelled = proxied.upstream.wait(|all| all[0].ended);
        timeout(Duration::from_secs(20), cancelled)
            .await
            .unwrap_or_else(|_| panic!("P168 P169: not cancelled, half closed: {half_closed}"));
    }
}

/// A body of this length fills every buffer between an upstream and a caller.
const MORE_THAN_BUFFERS: usize = 256 * 1024 * 1024;

#[tokio::test]
async fn slow_side_holds_back_the_other_p170() {
    const MEMORY_BOUND_KIB: usize = 16 * 1024;
    let stack = ProxyStack::answering(&["http/1.1"], &[], async |request| {
        let _never_read = request;
        std::future::pending().await
    })
    .await;
    let (proxy, https) = (&stack.proxy, &stack.https);
    let before = proxy.peak_memory();
    let head = post(&[&format!("Content-Length: {MORE_THAN_BUFFERS}")], "");
    let mut client = Client::sending(https, head).await;
    let sent = client.flood(MORE_THAN_BUFFERS).await;
    assert!(
        sent < MORE_THAN_BUFFERS / 4,
        "{sent} bytes were taken that nobody reads"
    );
    let grown = proxy.peak_memory_above(before);
    assert!(grown < MEMORY_BOUND_KIB, "the proxy grew by {grown} KiB");
}

/// Starts an upstream whose answer has [`MORE_THAN_BUFFERS`] bytes. It notes how many were taken when
/// none was taken for a second.
async fn answering_at_length(stack: &Stack) -> (u16, watch::Receiver<Option<usize>>) {
    const STALLED: Duration = Duration::from_secs(1);
    let (note, stalled) = watch::channel(None);
    let port = listen(stack, &["http/1.1"], move |mut tls| {
        let note = note.clone();
        async move {
            let mut request = [0; 1024];
            let _ = tls.read(&mut request).await?;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MORE_THAN_BUFFERS}\r\n\r\n");
            tls.write_all(head.as_bytes()).await?;
            let (part, mut taken) = ([b'x'; 16 * 1024], 0);
            while taken < MORE_THAN_BUFFERS {
                let mut writing = pin!(tls.write(&part));
                taken += match timeout(STALLED, &mut writing).await {
                    Ok(written) => written?,
                    Err(_) => {
                        note.send_replace(Some(taken));
                        writing.await?
                    }
                };
            }
            std::io::Result::Ok(())
        }
    })
    .await;
    (port, stalled)
}

#[tokio::test]
async fn client_that_does_not_read_holds_back_the_upstream_p170() {
    let stack = Stack::new().await;
    let (upstream, mut stalled) = answering_at_length(&stack).await;
    let proxy = stack.proxy(upstream, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let before = proxy.peak_memory();
    let mut client = Client::sending(&https, get(&[])).await;
    client.read_some(1).await;
    let stalled = timeout(PATIENCE, stalled.wait_for(Option::is_some)).await;
    let taken = stalled.expect("the upstream stalls").unwrap().unwrap();
    assert!(taken < MORE_THAN_BUFFERS / 4, "{taken} bytes were taken");
    // A second caller is served while the answer of the first one waits.
    let nowhere = request(&["GET /nowhere HTTP/1.1", "Host: a"], "");
    let mut other = Client::sending(&https, nowhere).await;
    assert_eq!(other.answer().await.unwrap().status(), 404);
    client.read_some(taken * 2).await;
    let grown = proxy.peak_memory_above(before);
    assert!(grown < 16 * 1024, "the proxy grew by {grown} KiB");
}
