use harness::{
    Stack,
    frames::{self, Frames},
    https::get,
    raw::{self, Client, End},
};
use http::Version;
use nix::sys::signal::Signal;

#[tokio::test]
async fn a_kept_alive_connection_gets_an_answer_before_it_ends() {
    let stack = Stack::new().await;
    let token = stack.bearer();
    for name in ["server", "proxy"] {
        let upstream = stack.server(&[]).await;
        let mut process = match name {
            "server" => stack.server(&[]).await,
            _ => stack.proxy(upstream.listening().await, &[]).await,
        };
        let https = stack.https(process.listening().await);
        let mut busy = Client::sending(&https, raw::get(&token)).await;
        let mut idle = Client::sending(&https, raw::get(&token)).await;
        let mut fresh = Client::new(&https).await;
        for client in [&mut busy, &mut idle] {
            let answer = client.answer().await.unwrap();
            assert_eq!(
                (answer.status(), answer.fields("connection").len()),
                (200, 0)
            );
        }
        process.signal(Signal::SIGTERM);
        for client in [&mut busy, &mut fresh] {
            let mut answers = 0;
            loop {
                client.send(raw::get(&token)).await;
                let answer = client.answer().await;
                let answer = answer.unwrap_or_else(|| panic!("{name}: lost after {answers}"));
                assert_eq!(answer.status(), 200);
                answers += 1;
                match answer.fields("connection")[..] {
                    [] => {}
                    ["close"] => break,
                    ref other => panic!("{other:?}"),
                }
            }
            assert_eq!(client.end().await, (Vec::new(), End::Clean), "{name}");
        }
        assert_eq!(idle.end().await, (Vec::new(), End::Clean), "{name}");
        assert_eq!(process.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_http2_request_that_crosses_goaway_is_served() {
    const FIRST_GOAWAY: [u8; 8] = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let stack = Stack::new().await;
    let token = stack.bearer();
    let ask = |stream| frames::request(stream, frames::GET, &[("authorization", &token)]);
    let mut server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let mut http2 = Frames::connect(&https, &[]).await;
    http2.send(&ask(1)).await;
    http2.until(frames::HEADERS, 1).await;

    server.signal(Signal::SIGTERM);
    let goaway = http2.until(frames::GOAWAY, 0).await;
    assert_eq!(goaway.payload, FIRST_GOAWAY);
    let ping = http2.until(frames::PING, 0).await;
    http2.send(&ask(3)).await;
    http2.until(frames::HEADERS, 3).await;
    let pong = frames::frame(frames::PING, frames::ACK, 0, &ping.payload);
    http2.send(&[pong, ask(5)].concat()).await;

    let mut served = Vec::new();
    let mut last = None;
    while let Some(frame) = http2.next().await {
        match frame.kind {
            frames::HEADERS => served.push(frame.stream),
            frames::GOAWAY => last = Some(frame.payload[3]),
            _ => {}
        }
    }
    // The request is served, or the caller knows that it is not and may send it again elsewhere.
    assert_eq!(
        served.contains(&5),
        last >= Some(5),
        "{served:?}, GOAWAY {last:?}"
    );
    assert!(last >= Some(3), "{last:?}");
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_http2_client_that_never_stops_sees_no_failure() {
    let stack = Stack::new().await;
    let token = stack.bearer();
    let mut server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let io = hyper_util::rt::TokioIo::new(https.connect(b"h2").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut answers = 0;
    // The sender is no longer ready once the GOAWAY has come.
    while sender.ready().await.is_ok() {
        let mut request = get(&[("authorization", &token)]);
        *request.uri_mut() = "https://localhost/".parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        match sender.try_send_request(request).await {
            Ok(answer) => assert_eq!(answer.status(), 200),
            Err(mut failed) => {
                assert!(
                    failed.take_message().is_some(),
                    "it was not sent: {failed:?}"
                );
                break;
            }
        }
        answers += 1;
        if answers == 100 {
            server.signal(Signal::SIGTERM);
        }
    }
    assert!(answers >= 100);
    connection.await.unwrap().unwrap();
    assert_eq!(server.ended().await.code(), Some(0));
}
