use std::{
    future::pending,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::reason::Reason;
use dev_agent::pb;
use harness::{
    SERVER_ID, Stack,
    fake_workload_api::{Fake, Genuine},
    https::get,
    metrics::Page,
    process,
    raw::Client,
    upstream::answering,
    wait::until,
    x509::Authority,
};
use http::{Request, Version};
use http_body_util::channel::Channel;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Watched;

/// Returns a message with one JWT bundle, that of the own trust domain.
fn jwt_bundle(jwks: String) -> pb::JwtBundlesResponse {
    pb::JwtBundlesResponse {
        bundles: [("spiffe://example.org".to_owned(), jwks.into_bytes())].into(),
    }
}

#[tokio::test]
async fn token_of_a_key_that_cannot_be_used_is_unusable_key() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let mut jwks: Value = serde_json::from_str(&stack.agent.jwks()).unwrap();
    jwks["keys"][0]["kty"] = "other".into();
    fake.say_jwt_bundles(Ok(jwt_bundle(jwks.to_string())));
    let server = Watched::at(&stack, &fake.endpoint(), "server", &[]).await;
    assert_eq!(server.https.status(&stack.token(|_| ())).await, 401);
    server.has(401, Reason::UnusableKey).await;
}

#[tokio::test]
async fn token_without_bundles_to_verify_it_is_no_bundles_and_the_update_is_counted_as_rejected() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let grace = ["--bundle-grace", "1s"];
    let server = Watched::at(&stack, &fake.endpoint(), "server", &grace).await;
    fake.say_jwt_bundles(Ok(jwt_bundle("{}".to_owned())));
    let token = stack.token(|_| ());
    until(async || server.https.status(&token).await == 503).await;
    server.has(503, Reason::NoBundles).await;
    let rejected = "spiffe_workload_api_rejected_updates_total{stream=\"jwt_bundles\"}";
    assert_eq!(Page::of(&server.admin).await.at(rejected), 1.0);
    server.process.logged("it has no array of keys").await;
}

#[tokio::test]
async fn update_that_repeats_an_unusable_bundle_is_counted_as_rejected_again() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let server = Watched::at(&stack, &fake.endpoint(), "server", &[]).await;
    let count = |name: &str| format!("spiffe_workload_api_{name}_total{{stream=\"jwt_bundles\"}}");
    Page::wait_for(&server.admin, &count("updates"), 1.0).await;
    for repeats in [1.0, 2.0, 3.0] {
        fake.say_jwt_bundles(Ok(jwt_bundle("{}".to_owned())));
        let page = Page::wait_for(&server.admin, &count("rejected_updates"), repeats).await;
        assert_eq!(page.at(&count("updates")), 1.0);
    }
}

#[tokio::test]
async fn call_that_ends_with_its_token_is_credential_expired() {
    let stack = Stack::new().await;
    let silent = answering(&stack, &["h2", "http/1.1"], |_| pending()).await;
    let url = format!("https://localhost:{silent}");
    let upstream = ["--upstream", &url, "--upstream-id", SERVER_ID];
    let args = [&upstream[..], &["--stream-lifetime", "token"]].concat();
    let server = Watched::start(&stack, "server", &args).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expiry = now.as_secs() + 4;
    let token = stack.token(|claims| claims.payload["exp"] = expiry.into());
    let (_sender, body) = Channel::<Bytes>::new(1);
    let call = Request::post("/")
        .header("authorization", format!("Bearer {token}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    let call = call.body(body).unwrap();
    let answer = server.https.start(Version::HTTP_2, call).await;
    assert_eq!(answer.headers()["grpc-status"], "16");
    server.has(401, Reason::CredentialExpired).await;
}

#[tokio::test]
async fn call_of_a_gateway_that_is_not_a_check_is_not_a_check() {
    let stack = Stack::new().await;
    let args = ["--ext-authz", "127.0.0.1:0"];
    let (server, admin) = stack.spawn_with_admin("server", &args).await;
    let line = server.logged("for checks of a gateway").await;
    let stream = TcpStream::connect(("127.0.0.1", process::port(&line))).await;
    let answer = harness::http::send(stream.unwrap(), Version::HTTP_2, get(&[])).await;
    assert_eq!(answer.unwrap().status(), 404);
    let counted = "spiffe_refusals_total{reason=\"not_a_check\"}";
    Page::wait_for(&admin, counted, 1.0).await;
}

#[tokio::test]
async fn request_of_an_application_without_a_token_is_no_jwt_svid_and_the_fetch_a_failure() {
    let life = |config: &mut dev_agent::Config| config.jwt_ttl = Duration::from_secs(3);
    let stack = Stack::with(SERVER_ID, life).await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}", server.listening().await);
    let client = Watched::start(&stack, "client", &["--url", &url]).await;
    let ask = async || {
        let mut caller = Client::sending(&client.https, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        caller.answer().await.unwrap().status()
    };
    assert_eq!(ask().await, 200);
    stack.agent.stop().await;
    until(async || ask().await == 503).await;
    client.has(503, Reason::NoJwtSvid).await;
    let failed =
        format!("spiffe_jwt_svid_fetches_total{{audience=\"{SERVER_ID}\",result=\"failure\"}}");
    until(async || Page::of(&client.admin).await.at(&failed) >= 1.0).await;
}

#[tokio::test]
async fn tokens_over_the_size_of_the_cache_are_counted_as_evicted() {
    let stack = Stack::new().await;
    let server = Watched::start(&stack, "server", &["--token-cache", "2"]).await;
    for number in 0..20 {
        let token = stack.token(|claims| claims.payload["jti"] = number.into());
        assert_eq!(server.https.status(&token).await, 200);
    }
    let page = Page::of(&server.admin).await;
    assert!(page.at("spiffe_token_cache_evictions_total") >= 1.0);
}

#[tokio::test]
async fn caller_with_a_certificate_and_no_token_is_counted_as_such() {
    let root = Authority::root();
    let stack = Stack::federated(root.bundle("odd.test")).await;
    let id = "spiffe://odd.test/caller";
    let args = ["--client-certificates", "accept", "--allow", id];
    let server = Watched::start(&stack, "server", &args).await;
    let mut config = server.https.config(&[b"http/1.1"]);
    config.client_auth_cert_resolver = root.issue(id, |_| ()).presented();
    let tls = server.https.connect_with(config, "localhost").await;
    let mut caller = Client::over(tls.unwrap());
    caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(caller.answer().await.unwrap().status(), 200);
    let page = Page::of(&server.admin).await;
    let counted = [("result=\"certificate\",reason=\"\"", 1.0)];
    page.assert_all("spiffe_verifications_total", &counted);
    // The other trust domain has an X.509 bundle only.
    assert_eq!(page.at("spiffe_trust_domains{kind=\"x509\"}"), 2.0);
}
