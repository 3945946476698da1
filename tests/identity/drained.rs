use std::sync::atomic::Ordering::SeqCst;

use http::{Request, Response, Version};
use http_body_util::{BodyExt, Channel};
use hyper::body::Bytes;
use serve::body::Body;

use harness::{
    Stack,
    https::get,
    load::Callers,
    upstream,
    wait::until,
    x509::{Authority, Presenting},
};

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
        let proxy = stack.proxy_before(&[upstream.port], &args).await;
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
            Response::new(Body::streamed(request.into_body()))
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
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let load = Callers::on(&stack.https(proxy.listening().await), &stack.token(|_| ()));
    for _ in 0..5 {
        load.continues().await;
        stack.agent.rotate_x509();
        load.continues().await;
        stack.agent.rotate_ca();
        load.continues().await;
        stack.agent.drop_old_ca();
    }
    load.continues().await;
    assert_eq!(load.failed().await, 0, "{}", proxy.log().join("\n"));
}
