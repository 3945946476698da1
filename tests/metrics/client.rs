use std::time::{SystemTime, UNIX_EPOCH};

use harness::{
    SERVER_ID, Stack,
    https::{Https, get},
    metrics::Page,
};

#[tokio::test]
async fn fetches_and_requests_of_a_listening_client_are_counted() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}", server.listening().await);
    let args = ["--listen", "127.0.0.1:0", "--url", &url];
    let (client, admin) = stack.spawn_with_admin("client", &args).await;
    let https = Https::plain(client.listening().await);
    for _ in 0..3 {
        let mut caller = harness::raw::Client::new(&https).await;
        caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(caller.answer().await.unwrap().status(), 200);
    }
    let own = get(&[("authorization", "Bearer a")]);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n",
        own.headers()["authorization"].to_str().unwrap()
    );
    let mut caller = harness::raw::Client::sending(&https, request).await;
    assert_eq!(caller.answer().await.unwrap().status(), 400);
    drop(caller);
    let page = Page::wait_until_quiet(&admin).await;
    let codes = [("code=\"200\"", 3.0), ("code=\"400\"", 1.0)];
    page.assert_all("spiffe_requests_total", &codes);
    let refusals = [("reason=\"own_authorization\"", 1.0)];
    page.assert_all("spiffe_refusals_total", &refusals);
    page.assert_all("spiffe_handshakes_total", &[("tls=\"none\"", 4.0)]);
    assert_eq!(page.at("spiffe_upstream_requests_total"), 3.0);
    let of_token = |name: &str, more: &str| format!("{name}{{audience=\"{SERVER_ID}\"{more}}}");
    let fetches = |result: &str| {
        let more = format!(",result=\"{result}\"");
        page.at(&of_token("spiffe_jwt_svid_fetches_total", &more))
    };
    assert_eq!((fetches("success"), fetches("failure")), (1.0, 0.0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expiry = page.at(&of_token("spiffe_jwt_svid_expiry_timestamp_seconds", ""));
    let left = expiry - now.as_secs_f64();
    assert!((0.0..=3600.0).contains(&left), "{left}");
    let age = page.at(&of_token("spiffe_jwt_svid_age_seconds", ""));
    assert!((0.0..60.0).contains(&age), "{age}");
}
