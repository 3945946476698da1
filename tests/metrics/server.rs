use http::{Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;

use harness::{CLIENT_ID, SERVER_ID, Stack, app::App, https::get, metrics::Page, raw};
use tokio::net::TcpStream;

#[tokio::test]
async fn each_request_is_counted_once_with_its_code_its_reason_and_its_verification() {
    let stack = Stack::new().await;
    let app = App::start("http").await;
    let args = [
        "--allow",
        CLIENT_ID,
        "--public",
        "/other",
        "--upstream",
        &app.url,
    ];
    let (server, admin) = stack.server_with_admin(&args).await;
    let https = stack.https(server.listening().await);
    let good = stack.token(|_| ());
    let expired = stack.token(|jwt| jwt.payload["exp"] = 1.into());
    let other = stack.token(|jwt| jwt.payload["aud"] = "other".into());
    let stranger = stack.token(|jwt| jwt.payload["sub"] = SERVER_ID.into());
    let bearer = |token: &str| get(&[("authorization", &format!("Bearer {token}"))]);
    let mut public = get(&[]);
    *public.uri_mut() = "/other".parse().unwrap();
    let requests: [(Request<Full<Bytes>>, usize); 7] = [
        (bearer(&good), 7),
        (bearer(&expired), 4),
        (bearer(&other), 2),
        (bearer(&stranger), 5),
        (bearer("a b"), 1),
        (get(&[]), 3),
        (public, 6),
    ];
    for (request, times) in requests {
        for time in 0..times {
            let version = match time % 2 {
                0 => Version::HTTP_11,
                _ => Version::HTTP_2,
            };
            https.send_over(version, request.clone()).await;
        }
    }
    let page = Page::wait_until_quiet(&admin).await;
    let codes = [
        ("code=\"200\"", 7.0 + 6.0),
        ("code=\"400\"", 1.0),
        ("code=\"401\"", 9.0),
        ("code=\"403\"", 5.0),
    ];
    page.assert_all("spiffe_requests_total", &codes);
    let refusals = [
        ("reason=\"audience\"", 2.0),
        ("reason=\"expired\"", 4.0),
        ("reason=\"malformed\"", 1.0),
        ("reason=\"no_token\"", 3.0),
        ("reason=\"not_allowed\"", 5.0),
    ];
    page.assert_all("spiffe_refusals_total", &refusals);
    // The sum over the reasons is the number of refused requests.
    assert_eq!(page.sum("spiffe_refusals_total"), 1.0 + 9.0 + 5.0);
    let verifications = [
        ("result=\"token\",reason=\"\"", 7.0),
        ("result=\"public\",reason=\"\"", 6.0),
        ("result=\"refused\",reason=\"audience\"", 2.0),
        ("result=\"refused\",reason=\"expired\"", 4.0),
        ("result=\"refused\",reason=\"malformed\"", 1.0),
        ("result=\"refused\",reason=\"no_token\"", 3.0),
        ("result=\"refused\",reason=\"not_allowed\"", 5.0),
    ];
    page.assert_all("spiffe_verifications_total", &verifications);
    for (name, value) in [
        ("spiffe_request_duration_seconds_count", 28.0),
        ("spiffe_time_to_first_byte_seconds_count", 28.0),
        // Each of the two tokens that are valid is verified once. Refusals are not remembered.
        ("spiffe_token_cache_hits_total", 6.0 + 4.0),
        ("spiffe_token_cache_misses_total", 2.0 + 4.0 + 2.0),
        (
            "spiffe_verification_duration_seconds_count",
            2.0 + 4.0 + 2.0,
        ),
        ("spiffe_token_cache_evictions_total", 0.0),
        ("spiffe_connections_total", 28.0),
        ("spiffe_handshakes_total{tls=\"TLSv1.3\"}", 28.0),
        ("spiffe_http_connections_total{protocol=\"h2\"}", 12.0),
        ("spiffe_http_connections_total{protocol=\"http/1.1\"}", 16.0),
        ("spiffe_upstream_requests_total", 7.0 + 6.0),
        ("spiffe_log_lines_lost_total", 0.0),
    ] {
        assert_eq!(page.at(name), value, "{name}");
    }
    assert!(page.at("spiffe_request_duration_seconds_sum") > 0.0);
}

#[tokio::test]
async fn bytes_are_those_of_http_in_both_directions() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let https = stack.https(server.listening().await);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut client = raw::Client::sending(&https, request).await;
    let (answer, _) = client.end().await;
    let page = Page::wait_until_quiet(&admin).await;
    assert_eq!(page.at("spiffe_received_bytes_total"), request.len() as f64);
    assert_eq!(page.at("spiffe_sent_bytes_total"), answer.len() as f64);
}

#[tokio::test]
async fn connections_that_are_not_served_are_counted_by_reason() {
    let stack = Stack::new().await;
    let args = [
        "--max-connections-per-address",
        "2",
        "--handshake-timeout",
        "3s",
    ];
    let (server, admin) = stack.server_with_admin(&args).await;
    let port = server.listening().await;
    let connect = async || TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (_silent, broken) = (connect().await, connect().await);
    Page::wait_for(&admin, "spiffe_connections_open", 2.0).await;
    let shed = "spiffe_shed_total{cause=\"max_connections_per_address\"}";
    let _third = connect().await;
    Page::wait_for(&admin, shed, 1.0).await;
    drop(broken);
    let timeout = "spiffe_handshake_failures_total{reason=\"handshake_timeout\"}";
    let page = Page::wait_for(&admin, timeout, 1.0).await;
    let failures = [
        ("reason=\"handshake_broken\"", 1.0),
        ("reason=\"handshake_timeout\"", 1.0),
        ("reason=\"max_connections_per_address\"", 1.0),
    ];
    page.assert_all("spiffe_handshake_failures_total", &failures);
    assert_eq!(page.at("spiffe_connections_total"), 2.0);
    assert_eq!(page.sum("spiffe_handshakes_total"), 0.0);
}

#[tokio::test]
async fn refused_certificates_and_versions_of_tls_are_counted() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&["--peers", SERVER_ID]).await;
    let https = stack.https(server.listening().await);
    for _ in 0..3 {
        let answer = match https.try_connect(b"http/1.1").await {
            Ok(tls) => raw::Client::over(tls).answer().await,
            Err(_) => None,
        };
        assert!(answer.is_none(), "there is no certificate");
    }
    let refused = "spiffe_handshake_failures_total{reason=\"certificate\"}";
    let page = Page::wait_for(&admin, refused, 3.0).await;
    assert_eq!(page.sum("spiffe_handshake_failures_total"), 3.0);
    assert_eq!(page.sum("spiffe_handshakes_total"), 0.0);

    let (server, admin) = stack.server_with_admin(&[]).await;
    let https = stack.https(server.listening().await);
    let config = https.config_of(&[&rustls::version::TLS12], &[b"http/1.1"]);
    let tls = https.connect_with(config, "localhost").await.unwrap();
    let mut client = raw::Client::over(tls);
    client.send(raw::get("")).await;
    client.answer().await.unwrap();
    let page = Page::of(&admin).await;
    page.assert_all("spiffe_handshakes_total", &[("tls=\"TLSv1.2\"", 1.0)]);
}
