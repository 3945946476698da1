use std::time::Duration;

use dev_agent::{Config, DevAgent, FederatedBundle};
use harness::{
    PATIENCE, SERVER_ID, Stack, binary,
    fake_workload_api::{Fake, Genuine},
    jwt::Key,
    process::{Process, command},
    raw::{Client, Message},
};
use serde_json::json;
use spiffe::TrustDomain;
use tokio::{net::TcpListener, time::timeout};
use tonic::Status;

/// Opens a connection that is kept through all changes, because only tokens are tested here.
async fn connected(stack: &Stack, server: &Process) -> Client {
    Client::new(&stack.https(server.listening().await)).await
}

/// Sends `token` until the answer is `status`, because an update takes the time of a message on a
/// socket.
async fn until(client: &mut Client, token: &str, status: u16) -> Message {
    let asking = async {
        loop {
            let answer = ask(client, token).await;
            if answer.status() == status {
                return answer;
            }
        }
    };
    let asked = timeout(PATIENCE, asking).await;
    asked.expect("takes effect in time")
}

async fn ask(client: &mut Client, token: &str) -> Message {
    let head = "GET / HTTP/1.1\r\nhost: localhost\r\n";
    client
        .send(format!("{head}authorization: Bearer {token}\r\n\r\n"))
        .await;
    client.answer().await.unwrap()
}

/// "J166": the key is removed; "J167": a key is added.
#[tokio::test]
async fn added_key_is_accepted_and_removed_key_refused_j166() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let mut client = connected(&stack, &server).await;
    let old = stack.token(|_| ());
    assert_eq!(ask(&mut client, &old).await.status(), 200);
    stack.agent.rotate_jwt_key();
    let new = stack.token(|_| ());
    until(&mut client, &new, 200).await;
    stack.agent.drop_old_jwt_key();
    until(&mut client, &old, 401).await;
    assert_eq!(ask(&mut client, &new).await.status(), 200);
}

#[tokio::test]
async fn token_of_a_dropped_federated_domain_is_refused_j168() {
    let directory = tempfile::tempdir().unwrap();
    let entry = "spiffe://partner.example/caller=unix:uid:0"
        .parse()
        .unwrap();
    let partner = Config::new(directory.path().join("partner.sock"), vec![entry]);
    let partner = DevAgent::start(partner).await.unwrap();
    let stack = Stack::federated(partner.federation()).await;
    let server = stack
        .server(&["--allow", "spiffe://partner.example/*"])
        .await;
    let mut client = connected(&stack, &server).await;
    let token =
        partner.mint_jwt(&partner.jwt_claims("spiffe://partner.example/caller", &[SERVER_ID]));
    assert_eq!(ask(&mut client, &token).await.status(), 200);

    stack.agent.set_federated(Vec::new()).unwrap();
    until(&mut client, &token, 401).await;
    server
        .logged(r#"no bundle found for trust domain "partner.example""#)
        .await;
}

#[tokio::test]
async fn withdrawn_bundles_are_answered_with_503_j169() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let args = ["--listen", "127.0.0.1:0"];
    let server = Process::spawn(command(&binary("server"), &fake.endpoint(), &args));
    let mut client = connected(&stack, &server).await;
    let token = stack.token(|_| ());
    assert_eq!(ask(&mut client, &token).await.status(), 200);

    // The X.509-SVID stays, because connections end with it.
    fake.say_jwt_bundles(Err(Status::permission_denied("no identity issued")));
    let answer = until(&mut client, &token, 503).await;
    assert_eq!(answer.fields("retry-after"), ["5"]);
    assert_eq!(answer.fields("www-authenticate"), Vec::<&str>::new());
}

/// "J37": nothing is fetched for an unknown `kid`, because it is refused at once while the agent is
/// gone.
#[tokio::test]
async fn last_bundles_stay_in_use_while_the_agent_is_gone_j170() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let mut client = connected(&stack, &server).await;
    let good = stack.token(|_| ());
    let unknown = stack.token(|jwt| jwt.header["kid"] = "unknown".into());
    stack.agent.stop().await;
    server.logged("lost the Workload API").await;
    assert_eq!(ask(&mut client, &good).await.status(), 200);
    assert_eq!(ask(&mut client, &unknown).await.status(), 401);
}

#[tokio::test]
async fn tokens_are_answered_with_503_when_the_svid_expires_while_the_agent_is_gone_j170() {
    let ttl = Duration::from_secs(6);
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = ttl).await;
    let server = stack.server(&[]).await;
    let mut client = connected(&stack, &server).await;
    let token = stack.token(|_| ());
    assert_eq!(ask(&mut client, &token).await.status(), 200);
    stack.agent.stop().await;
    // The connection stays open for a request that has begun.
    client.send("GET / HTTP/1.1\r\nhost: localhost\r\n").await;
    server.logged("the X.509-SVID has expired").await;
    let rest = format!("authorization: Bearer {token}\r\n\r\n");
    client.send(rest).await;
    assert_eq!(client.answer().await.unwrap().status(), 503);
}

#[tokio::test]
async fn urls_in_a_token_are_not_fetched_j050_j051() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let mut client = connected(&stack, &server).await;
    // No other test listens at this address, so that nobody else connects to it.
    let keys = TcpListener::bind("127.0.0.2:0").await.unwrap();
    for name in ["jku", "x5u"] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{}/keys", keys.local_addr().unwrap());
            let token = stack.token(|jwt| jwt.header[name] = url.into());
            assert_eq!(ask(&mut client, &token).await.status(), 401, "{name}");
        }
    }
    // A fetch may begin after the answer.
    let fetch = timeout(Duration::from_secs(1), keys.accept()).await;
    assert!(fetch.is_err(), "J50, J51: the server connects to the URL");
}

#[tokio::test]
async fn server_does_not_listen_before_the_first_bundles_j171() {
    let stack = Stack::new().await;
    stack.agent.stall();
    let mut server = stack.spawn(
        "server",
        &["--listen", "127.0.0.1:0", "--startup-timeout", "300ms"],
    );
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(!server.log().join("\n").contains("listening on"));
}

/// A server that could verify no token of its own trust domain does not start.
#[tokio::test]
async fn server_does_not_listen_before_a_usable_bundle_j171() {
    let stack = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    let own = genuine.jwt_bundles.bundles.values_mut().next().unwrap();
    let good = std::mem::replace(own, b"{}".to_vec());
    let fake = Fake::new(&genuine);
    let args = ["--listen", "127.0.0.1:0"];
    let server = Process::spawn(command(&binary("server"), &fake.endpoint(), &args));
    let line = server.logged("waiting for an identity").await;
    assert!(
        line.contains("the JWT bundle of example.org: it has no array of keys"),
        "{line}"
    );
    for bundle in genuine.jwt_bundles.bundles.values_mut() {
        bundle.clone_from(&good);
    }
    fake.say_jwt_bundles(Ok(genuine.jwt_bundles));
    let https = stack.https(server.listening().await);
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);
}

/// A key that cannot be used is named at start-up, and the other keys of its bundle verify.
#[tokio::test]
async fn unusable_key_is_warned_of_at_start_up_j165() {
    let mut jwk = Key::p256("off-the-curve").jwk();
    jwk["use"] = "jwt-svid".into();
    jwk["x"] = jwk["y"].clone();
    let partner = TrustDomain::new("partner.example").unwrap();
    let partner = FederatedBundle::parse(partner, &json!({ "keys": [jwk] }).to_string()).unwrap();
    let stack = Stack::federated(partner).await;
    let server = stack.server(&[]).await;
    let line = server
        .logged("the JWT bundle has a key that cannot be used")
        .await;
    assert!(
        line.contains("WARN") && line.contains("partner.example") && line.contains("off-the-curve"),
        "{line}"
    );
}

#[tokio::test]
async fn token_for_several_audiences_is_noted_in_the_log_j003() {
    let stack = Stack::new().await;
    let arguments = ["--listen", "127.0.0.1:0"];
    let mut server = command(&binary("server"), &stack.agent.endpoint(), &arguments);
    server.env("RUST_LOG", "debug");
    let server = Process::spawn(server);
    let mut client = connected(&stack, &server).await;
    let token = stack.token(|jwt| jwt.payload["aud"] = json!([SERVER_ID, "x"]));
    assert_eq!(ask(&mut client, &token).await.status(), 200);
    server.logged("multi-audience").await;
}
