use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::{PATIENCE, https::get, jwt::now, raw::Client};
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Fixture, NONE, bearer, request};

/// "J192": the bytes of the answer are the same for every fault of a token, except the date.
#[tokio::test]
async fn answers_to_invalid_tokens_tell_no_reason_j191() {
    let fixture = Fixture::new(&[]).await;
    let token = |change: &dyn Fn(&mut serde_json::Value, &mut serde_json::Value)| {
        fixture
            .stack
            .token(|jwt| change(&mut jwt.header, &mut jwt.payload))
    };
    let tokens = [
        "not-a-token".to_owned(),
        format!("{}A", &fixture.token[..fixture.token.len() - 9]),
        token(&|_, payload| payload["exp"] = (now() - 1).into()),
        token(&|_, payload| payload["nbf"] = (now() + 600).into()),
        token(&|_, payload| payload["aud"] = "x".into()),
        token(&|_, payload| payload["sub"] = "spiffe://elsewhere.example/x".into()),
        token(&|_, payload| payload["sub"] = "<script>".into()),
        token(&|header, _| header["kid"] = "unknown".into()),
        token(&|header, _| header["alg"] = "none".into()),
        token(&|header, _| header["jku"] = "http://127.0.0.1/".into()),
    ];
    for token in tokens {
        let mut client = Client::sending(&fixture.https, bearer(format!("Bearer {token}"))).await;
        let answer = client.answer().await.unwrap();
        let head: Vec<&str> = answer
            .head
            .lines()
            .filter(|line| !line.starts_with("date: "))
            .collect();
        assert_eq!(
            head,
            [
                "HTTP/1.1 401 Unauthorized",
                "content-type: text/plain; charset=utf-8",
                "cache-control: no-store",
                r#"www-authenticate: Bearer realm="spiffe", error="invalid_token""#,
                "content-length: 17",
            ]
        );
        assert_eq!(answer.body, b"401 Unauthorized\n");
    }
}

#[tokio::test]
async fn request_is_refused_before_its_body_is_read_j193() {
    let fixture = Fixture::new(&[]).await;
    let post = request("POST /", "content-length: 10000000\r\n");
    let expecting = request("POST /", "content-length: 10\r\nexpect: 100-continue\r\n");
    fixture
        .check(&[
            ("J193", "no byte of the body sent", post.clone(), 401, NONE),
            ("J194", "no 100 before it", expecting, 401, NONE),
            ("J195", "HEAD", request("HEAD /", ""), 401, NONE),
        ])
        .await;

    let mut client = Client::sending(&fixture.https, post).await;
    assert_eq!(client.answer().await.unwrap().status(), 401);
    let sent = client.flood(64 << 20).await;
    assert!(sent < 64 << 20, "J193: the body is not read");

    let mut client = Client::sending(&fixture.https, request("HEAD /", "")).await;
    assert_eq!(client.answer_to("HEAD").await.unwrap().status(), 401);
    client
        .send(bearer(format!("Bearer {}", fixture.token)))
        .await;
    let next = client.answer().await.unwrap();
    assert_eq!(next.body, b"Success!!!", "J195: no body comes before it");
}

/// "J200": nothing is served to a caller that is not authenticated.
#[tokio::test]
async fn every_method_and_path_is_authenticated_j196() {
    let fixture = Fixture::new(&[]).await;
    let preflight = "origin: https://a.example\r\naccess-control-request-method: GET\r\n";
    let mut rows = vec![(
        "J196",
        "preflight",
        request("OPTIONS /", preflight),
        401,
        NONE,
    )];
    let of = |target: &'static str| (target, request(target, ""));
    for (number, (what, request)) in [
        ("J196", of("OPTIONS *")),
        ("J197", of("get /")),
        ("J197", of("FROBNICATE /")),
        ("J197", of("DELETE /")),
        ("J197", of("GET //")),
        ("J197", of("GET /..;/")),
        ("J197", of("GET /%2e%2e/")),
        ("J200", of("GET /health")),
        ("J200", of("GET /healthz")),
        ("J200", of("GET /ready")),
        ("J200", of("GET /metrics")),
        ("J200", of("GET /favicon.ico")),
    ] {
        rows.push((number, what, request, 401, NONE));
    }
    fixture.check(&rows).await;
}

#[tokio::test]
async fn each_request_of_a_connection_is_authenticated_on_its_own_j198() {
    let fixture = Fixture::new(&[]).await;
    let good = bearer(format!("Bearer {}", fixture.token));
    let bad = bearer("Bearer a.b.c");
    let mut client = Client::new(&fixture.https).await;
    for (request, status) in [
        (&good, 200),
        (&request("GET /", ""), 401),
        (&good, 200),
        (&bad, 401),
        (&good, 200),
    ] {
        client.send(request).await;
        assert_eq!(client.answer().await.unwrap().status(), status);
    }

    let io = TokioIo::new(fixture.https.connect(b"h2").await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let good = format!("Bearer {}", fixture.token);
    let mut streams = Vec::new();
    for value in [&good, "Bearer a.b.c", &good, "", &good] {
        let request = Request::get("https://localhost/").header("authorization", value);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        sender.ready().await.unwrap();
        streams.push(sender.send_request(request));
    }
    let mut statuses = Vec::new();
    for stream in streams {
        statuses.push(stream.await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [200, 401, 200, 401, 200]);
}

/// HTTP/2 has another form of these rows of HTTP/1.1: "J174", "J180", "J182", "J183", "J199".
#[tokio::test]
async fn authorization_field_is_checked_the_same_over_http2_j180() {
    let fixture = Fixture::new(&[]).await;
    let t = format!("Bearer {}", fixture.token);
    let long = |length: usize| format!("Bearer {}", "a".repeat(length));
    let lower = t.replace("Bearer", "bearer");
    for (number, fields, status) in [
        ("J173", vec![], 401),
        ("J174", vec![("authorization", lower.as_str())], 200),
        (
            "J180",
            vec![("authorization", t.as_str()), ("authorization", &t)],
            400,
        ),
        (
            "J180",
            vec![("authorization", "Basic x"), ("authorization", &t)],
            400,
        ),
        ("J182", vec![("authorization", "Bearer \u{e9}")], 400),
        ("J186", vec![("proxy-authorization", t.as_str())], 401),
        ("J199", vec![("authorization", &*long(9_000))], 431),
        ("J199", vec![("authorization", &*long(40_000))], 431),
    ] {
        let answer = fixture.https.send_over(Version::HTTP_2, get(&fields)).await;
        assert_eq!(answer.status, status, "{number}");
    }
}

/// The token is verified once, when the header has come. "J120" does not wait for the body, and
/// "J119" does not cut off an answer in flight.
#[tokio::test]
async fn response_ends_whole_though_its_token_expires_j119() {
    let fixture = Fixture::new(&[]).await;
    let seconds = now() + 8;
    let expiry = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
    let short = fixture
        .stack
        .token(|jwt| jwt.payload["exp"] = seconds.into());
    let post = request(
        "POST /",
        format!("authorization: Bearer {short}\r\ncontent-length: 5\r\n"),
    );
    let mut client = Client::sending(&fixture.https, post).await;
    assert_eq!(client.answer().await.unwrap().status(), 200, "J120");

    let io = TokioIo::new(fixture.https.connect(b"h2").await);
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(4) // of the ten bytes of Success!!!
        .handshake(io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let bearer_short = format!("Bearer {short}");
    let request = Request::get("https://localhost/").header("authorization", &bearer_short);
    let response = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);

    // Only the clock can make the token expire.
    let left = expiry.duration_since(SystemTime::now());
    tokio::time::sleep(left.unwrap_or_default()).await;
    let late = fixture
        .https
        .send(get(&[("authorization", &bearer_short)]))
        .await;
    assert_eq!(late.status, 401, "J119: the token has expired");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "Success!!!", "J119");
}

#[tokio::test]
async fn flood_of_bad_tokens_leaves_good_ones_served_j202() {
    let fixture = Fixture::new(&[]).await;
    let (head, signature) = fixture.token.rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    let bad = bearer(format!("Bearer {head}.{flipped}"));
    let good = bearer(format!("Bearer {}", fixture.token));
    let mut flood = Client::new(&fixture.https).await;
    let mut caller = Client::new(&fixture.https).await;
    let before = fixture.server.cpu_time();
    for n in 0..1000 {
        flood.send(&bad).await;
        assert_eq!(flood.answer().await.unwrap().status(), 401);
        if n % 100 == 0 {
            caller.send(&good).await;
            assert_eq!(
                caller.answer().await.unwrap().status(),
                200,
                "it is served next to the flood"
            );
        }
    }
    let spent = fixture.server.cpu_time() - before;
    assert!(
        spent < Duration::from_secs(1),
        "1000 bad tokens took {spent:?} of CPU"
    );
    // "J37": the log does not grow with bad tokens, and a later line says how many were left out.
    let told = async {
        while !fixture
            .server
            .log()
            .iter()
            .any(|line| line.contains("left_out="))
        {
            flood.send(&bad).await;
            flood.answer().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .expect("the number is logged in time");
}

#[tokio::test]
async fn plain_text_connection_gets_no_http_answer_j204() {
    let mut fixture = Fixture::new(&[]).await;
    let port = fixture.server.listening().await;
    let mut tcp = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    tcp.write_all(&bearer(format!("Bearer {}", fixture.token)))
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut answer))
        .await
        .expect("ends");
    assert!(
        !answer.windows(5).any(|bytes| bytes == b"HTTP/"),
        "{read:?} {answer:?}"
    );
    assert!(
        !fixture
            .server
            .whole_log()
            .await
            .contains("Request received")
    );
}
