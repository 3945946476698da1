use std::process::Output;

use harness::{CLIENT_ID, process::Process};

use crate::{Domains, THEIR_SERVER, follow, partner};

/// The beginning of what our processes log about changed CAs of the other trust domain. The line of their start
/// has the CAs of both.
const THEIR_BUNDLE: &str = "X.509 bundle of partner.example ";

/// Starts their server, which our client may call, and our proxy in front of it.
async fn our_proxy(domains: &Domains, upstream_id: &str) -> (Process, Process) {
    let server = domains.theirs.server(&["--allow", CLIENT_ID]).await;
    let port = server.listening().await;
    let args = ["--upstream-id", upstream_id];
    (server, domains.ours.proxy(port, &args).await)
}

/// Makes a request of our client for their server through our proxy.
async fn request(domains: &Domains, proxy: &Process) -> Output {
    let port = proxy.listening().await;
    domains.ours.client(port, &[THEIR_SERVER]).await
}

#[tokio::test]
async fn proxy_verifies_an_upstream_of_another_trust_domain_f018() {
    let domains = Domains::federated().await;
    let (server, proxy) = our_proxy(&domains, THEIR_SERVER).await;
    let output = request(&domains, &proxy).await;
    assert_eq!(output.stdout, b"Success!!!", "{output:?}");
    server.logged(&format!("caller={CLIENT_ID}")).await;
    for wrong in [
        "spiffe://partner.example/other",
        "spiffe://example.org/server",
    ] {
        let (_server, proxy) = our_proxy(&domains, wrong).await;
        let output = request(&domains, &proxy).await;
        assert_eq!(output.stderr, b"502 Bad Gateway\n", "{wrong}");
    }
}

#[tokio::test]
async fn cas_rotate_in_another_trust_domain_while_peers_are_verified_f018() {
    let domains = Domains::federated().await;
    let (server, proxy) = our_proxy(&domains, THEIR_SERVER).await;
    let theirs = &domains.theirs.agent;
    let verified = async || {
        let output = request(&domains, &proxy).await;
        assert_eq!(output.stdout, b"Success!!!", "{output:?}");
    };
    // The server logs the X.509-SVID of its start.
    for round in 1..=2 {
        theirs.prepare_ca();
        domains.refresh().await;
        proxy.logged_times(THEIR_BUNDLE, 2 * round - 1).await;
        theirs.rotate_ca();
        verified().await;
        server.logged_times("X.509-SVID ", 1 + round).await;
        verified().await;
        theirs.drop_old_ca();
        domains.refresh().await;
        proxy.logged_times(THEIR_BUNDLE, 2 * round).await;
        verified().await;
    }
}

#[tokio::test]
async fn proxy_refuses_an_upstream_once_the_relationship_has_ended_f014_f018() {
    let domains = Domains::federated().await;
    let (_server, proxy) = our_proxy(&domains, THEIR_SERVER).await;
    assert_eq!(request(&domains, &proxy).await.stdout, b"Success!!!");
    domains.ours.agent.unfederate(&partner());
    harness::wait::until(async || request(&domains, &proxy).await.stderr == b"502 Bad Gateway\n")
        .await;
    proxy
        .logged("no X.509 bundle for trust domain partner.example")
        .await;
    follow(&domains.ours.agent, &domains.theirs.agent);
    harness::wait::until(async || request(&domains, &proxy).await.stdout == b"Success!!!").await;
}

#[tokio::test]
async fn client_verifies_a_server_of_another_trust_domain_f018() {
    let domains = Domains::federated().await;
    let server = domains.theirs.server(&["--allow", CLIENT_ID]).await;
    let port = server.listening().await;
    let request = async |id| {
        let args = ["--server-id", id, THEIR_SERVER];
        domains.ours.client(port, &args).await
    };
    let output = request(THEIR_SERVER).await;
    assert_eq!(output.stdout, b"Success!!!", "{output:?}");
    let output = request("spiffe://partner.example/other").await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("expected spiffe://partner.example/other"),
        "{errors}"
    );

    domains.ours.agent.unfederate(&partner());
    let output = request(THEIR_SERVER).await;
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("no X.509 bundle for trust domain partner.example"),
        "{errors}"
    );
}
