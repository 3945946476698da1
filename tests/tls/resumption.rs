use std::time::Duration;

use harness::{SERVER_ID, Stack, https::Https, wait::until};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};
use spiffe::SpiffeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends a request on a connection of its own and reads to the end, tickets included.
async fn handshake(https: &Https, config: &ClientConfig) -> std::io::Result<HandshakeKind> {
    let mut tls = https.connect_with(config.clone(), "localhost").await?;
    let (_, connection) = tls.get_mut();
    let kind = connection.handshake_kind().unwrap();
    assert!(connection.early_data().is_none(), "P97: no early data");
    tls.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    Ok(kind)
}

fn resuming(https: &Https, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut config = https.config_of(versions, &[b"http/1.1"]);
    config.enable_early_data = true;
    config
}

/// "P97": a resumed session accepts no early data.
#[tokio::test]
async fn callers_resume_sessions_of_the_same_svid_only_p097() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let config = resuming(&https, versions);
        let kind = async || handshake(&https, &config).await.unwrap();
        assert_ne!(kind().await, HandshakeKind::Resumed);
        assert_eq!(kind().await, HandshakeKind::Resumed);

        let old = https.presented().await;
        stack.agent.rotate_x509();
        until(async || https.presented().await != old).await;
        assert_ne!(
            kind().await,
            HandshakeKind::Resumed,
            "T8: the new SVID needs a full handshake"
        );
        assert_eq!(kind().await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn expired_svid_ends_its_sessions_t008() {
    let change = |config: &mut dev_agent::Config| config.x509_ttl = Duration::from_secs(8);
    let stack = Stack::with(SERVER_ID, change).await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let config = resuming(&https, &[&version::TLS13]);
    stack.agent.stall();
    handshake(&https, &config).await.unwrap();
    let resumed = handshake(&https, &config).await;
    assert_eq!(resumed.unwrap(), HandshakeKind::Resumed);
    // The caller does not verify the certificate of a session that it resumes.
    until(async || handshake(&https, &config).await.is_err()).await;
}

#[tokio::test]
async fn withdrawn_svid_ends_its_sessions_p180() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let config = resuming(&https, &[&version::TLS13]);
    handshake(&https, &config).await.unwrap();
    let resumed = handshake(&https, &config).await;
    assert_eq!(resumed.unwrap(), HandshakeKind::Resumed);
    stack.agent.withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    until(async || handshake(&https, &config).await.is_err()).await;
}
