use tonic::Code;

use crate::support::{TestAgent, assert_status, is_pending, soon};

fn id(id: &str) -> spiffe::SpiffeId {
    id.parse().unwrap()
}

#[tokio::test]
async fn a_withdrawn_identity_is_removed_and_the_last_one_ends_the_streams_w066() {
    let agent = TestAgent::start(&[
        "spiffe://example.org/a=unix:uid:{uid}",
        "spiffe://example.org/b=unix:uid:{uid}",
    ])
    .await;
    let mut svids = agent.x509_stream().await;
    let mut bundles = agent.jwt_bundle_stream().await;
    let both = svids.next().await;
    bundles.next().await;

    agent.withdraw(&id("spiffe://example.org/a"));
    let one = svids.next().await;
    assert_eq!(one.svids[..], both.svids[1..]);

    agent.withdraw(&id("spiffe://example.org/b"));
    // "W67"
    for status in [svids.end().await, bundles.end().await] {
        assert_status(&status, Code::PermissionDenied, "no identity issued");
    }
    // "W112"
    let status = agent.fetch_jwt(&["x"], "").await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");

    agent.restore(&id("spiffe://example.org/a"));
    let again = agent.x509_stream().await.next().await;
    assert_eq!(again.svids[..], both.svids[..1]);
}

#[tokio::test]
async fn a_stalled_agent_sends_nothing_until_it_is_unstalled() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut svids = agent.x509_stream().await;
    let first = svids.next().await;

    agent.stall();
    agent.rotate_x509();
    assert!(svids.is_silent().await);
    assert!(is_pending(agent.fetch_jwt(&["x"], "")).await);
    assert!(is_pending(agent.x509_stream()).await);

    let mut waiting = std::pin::pin!(agent.fetch_jwt(&["x"], ""));
    assert!(is_pending(waiting.as_mut()).await);
    agent.unstall();
    soon(waiting).await.unwrap();
    assert_ne!(svids.next().await, first);
}

#[tokio::test]
async fn a_stopped_agent_ends_its_streams_and_restarts_with_the_same_svids_w011() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut svids = agent.x509_stream().await;
    let first = svids.next().await;

    agent.stop().await;
    assert_eq!(svids.end().await.code(), Code::Unavailable);
    assert!(!agent.socket().exists());
    agent.stop().await;

    agent.restart().await.unwrap();
    assert_eq!(agent.x509_stream().await.next().await, first);

    agent.restart_with_new_keys().await.unwrap();
    let other = agent.x509_stream().await.next().await;
    assert_ne!(other.svids[0].bundle, first.svids[0].bundle);
}

#[tokio::test]
async fn a_stalled_agent_can_be_stopped_w028() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut svids = agent.x509_stream().await;
    svids.next().await;
    agent.stall();
    let mut waiting = std::pin::pin!(agent.fetch_jwt(&["x"], ""));
    assert!(is_pending(waiting.as_mut()).await);
    soon(agent.stop()).await;
    assert_eq!(svids.end().await.code(), Code::Unavailable);
    assert_eq!(soon(waiting).await.unwrap_err().code(), Code::Unavailable);
    agent.restart().await.unwrap();
    agent.fetch_jwt(&["x"], "").await.unwrap();
}

#[tokio::test]
async fn dropping_the_handle_removes_the_socket_w007() {
    let directory = tempfile::tempdir().unwrap();
    let entry = "spiffe://example.org/a=unix:uid:0".parse().unwrap();
    let config = dev_agent::Config::new(directory.path().join("a.sock"), vec![entry]);
    let agent = dev_agent::DevAgent::start(config.clone()).await.unwrap();
    let error = dev_agent::DevAgent::start(config.clone())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("another agent is listening"),
        "{error}"
    );
    assert!(config.socket.exists());
    drop(agent);
    assert!(!config.socket.exists());
}
