//! Changes keys and identities, and checks that refusals take effect at once.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dev_agent::{Config, DevAgent};
use harness::{CLIENT_ID, SERVER_ID};
use spiffe::SpiffeId;
use tokio::time::sleep;

use crate::{
    findings::{A_WHILE, AT_ONCE, Findings, SOON},
    node::until,
    scale::Scale,
    stack::{GUEST_ID, STRANGER_ID, Stack},
    tally::Wanted,
};

/// Rotates SVIDs for a minute. New handshakes present the new SVID at once, and connections stay
/// open.
pub(crate) async fn new_svids(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    const EVERY: Duration = Duration::from_secs(2);
    let end = Instant::now() + scale.seconds(60);
    let caller = stack.load.caller();
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let begun = Instant::now();
        for node in stack.workloads() {
            let port = node.port()?;
            let before = caller.presented(port).await?;
            let changed = Instant::now();
            stack.ctl(&["rotate-x509"]).await?;
            until(async || (caller.presented(port).await.ok()? != before).then_some(())).await?;
            slowest = slowest.max(changed.elapsed());
        }
        sleep(EVERY.saturating_sub(begun.elapsed())).await;
    }
    found.within("the new SVID presented", slowest, AT_ONCE);
    let tally = stack.load.take();
    let reopened = tally.reopened;
    found.check(reopened == 0, format!("{reopened} kept connections ended"));
    found.strict(tally);
    Ok(())
}

pub(crate) async fn ca_rotation(stack: &Stack, scale: Scale) -> Result<()> {
    for _ in 0..scale.times(10).clamp(1, 3) {
        stack.ctl(&["rotate-ca"]).await?;
        sleep(A_WHILE / 2).await;
        stack.ctl(&["drop-old-ca"]).await?;
        sleep(A_WHILE / 2).await;
    }
    Ok(())
}

/// Checks that a token signed by the new key is accepted on its first request.
pub(crate) async fn jwt_rotation(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    for _ in 0..scale.times(10).clamp(1, 3) {
        stack.ctl(&["rotate-jwt"]).await?;
        let token = fetch(stack, CLIENT_ID).await?;
        let status = stack.load.caller().status(&token).await?;
        found.check(status == 200, format!("a new key's first token: {status}"));
    }
    Ok(())
}

/// Removes a JWT key. Its tokens, which were accepted before, are refused at once.
pub(crate) async fn jwt_key_removed(stack: &Stack, found: &mut Findings) -> Result<()> {
    let caller = stack.load.caller();
    let old = fetch(stack, CLIENT_ID).await?;
    stack.ctl(&["rotate-jwt"]).await?;
    ensure!(
        caller.status(&old).await? == 200,
        "the old key's token is refused too soon"
    );
    // The callers renew their tokens before the key is removed, as they do when keys live longer
    // than tokens.
    let current = caller.tokens.token().await?;
    caller.tokens.invalidate(&current);
    caller.tokens.token().await?;

    let begun = Instant::now();
    stack.ctl(&["drop-old-jwt"]).await?;
    refused(stack, &old).await?;
    found.within(
        "a token of the key that is gone refused",
        begun.elapsed(),
        AT_ONCE,
    );
    found.refused();
    sleep(A_WHILE / 2).await;
    Ok(())
}

/// Withdraws the entry of a caller, which gets no more tokens.
pub(crate) async fn caller_withdrawn(stack: &Stack, found: &mut Findings) -> Result<()> {
    ensure!(
        fetch(stack, GUEST_ID).await.is_ok(),
        "the guest has no identity"
    );
    let begun = Instant::now();
    stack.ctl(&["withdraw", GUEST_ID]).await?;
    until(async || fetch(stack, GUEST_ID).await.is_err().then_some(())).await?;
    found.within("no token for it", begun.elapsed(), AT_ONCE);
    found.refused();
    stack.ctl(&["restore", GUEST_ID]).await?;
    until(async || fetch(stack, GUEST_ID).await.ok()).await?;
    Ok(())
}

/// Adds and removes a federated bundle. Tokens of its trust domain are accepted only in between.
pub(crate) async fn federation_removed(stack: &Stack, found: &mut Findings) -> Result<()> {
    let socket = stack.directory().join("partner.sock");
    let partner = DevAgent::start(Config::new(
        socket,
        vec![format!("{STRANGER_ID}=unix:uid:0").parse()?],
    ));
    let partner = partner.await?;
    let bundle = stack.directory().join("partner.json");
    fs::write(&bundle, bundle_document(&partner.jwks())?)?;
    let token = partner.mint_jwt(&partner.jwt_claims(STRANGER_ID, &[SERVER_ID]));
    let caller = stack.load.caller();

    let domain = partner.trust_domain().id_string();
    let begun = Instant::now();
    stack
        .ctl(&["federate", &format!("{domain}={}", bundle.display())])
        .await?;
    until(async || (caller.status(&token).await.ok()? == 200).then_some(())).await?;
    found.within("accepted", begun.elapsed(), AT_ONCE);

    let begun = Instant::now();
    stack.ctl(&["unfederate", &domain]).await?;
    refused(stack, &token).await?;
    found.within("refused", begun.elapsed(), AT_ONCE);
    found.refused();
    partner.stop().await;
    Ok(())
}

/// Withdraws the servers' identity. They refuse everything until they have it again, and they
/// recover without a restart.
pub(crate) async fn server_withdrawn(stack: &Stack, found: &mut Findings) -> Result<()> {
    const REFUSALS: Wanted = Wanted {
        statuses: &[502, 503],
        broken: false,
        lost_posts: &[],
    };
    found.strict(stack.load.take());
    let caller = stack.load.caller();
    let token = fetch(stack, CLIENT_ID).await?;
    let written = stack.servers.each_ref().map(|server| server.written());
    let begun = Instant::now();
    stack.ctl(&["withdraw", SERVER_ID]).await?;
    until(async || (caller.status(&token).await.ok()? != 200).then_some(())).await?;
    found.within("refused", begun.elapsed(), AT_ONCE);
    for (server, written) in stack.servers.iter().zip(written) {
        server
            .logged("identity withdrawn by the Workload API", written)
            .await?;
    }
    sleep(A_WHILE).await;
    let begun = Instant::now();
    stack.ctl(&["restore", SERVER_ID]).await?;
    for (server, written) in stack.servers.iter().zip(written) {
        server
            .logged("the identity is issued again", written)
            .await?;
    }
    until(async || (caller.status(&token).await.ok()? == 200).then_some(())).await?;
    found.within("served again", begun.elapsed(), SOON);
    found.allowing(stack.load.take(), REFUSALS);
    sleep(A_WHILE / 2).await;
    Ok(())
}

/// Fetches a token for the servers.
async fn fetch(stack: &Stack, id: &str) -> Result<String> {
    let id = SpiffeId::new(id)?;
    let audience = [SERVER_ID.to_owned()];
    let svid = stack.api.fetch_jwt_svid(&audience, Some(&id)).await;
    Ok(svid.context("no token")?.token().to_owned())
}

/// Waits until a token is refused.
pub(crate) async fn refused(stack: &Stack, token: &str) -> Result<()> {
    let caller = stack.load.caller();
    until(async || (caller.status(token).await.ok()? == 401).then_some(())).await?;
    Ok(())
}

/// Returns the JWK Set of workloads as a SPIFFE bundle (SPIFFE Trust Domain and Bundle §4).
fn bundle_document(jwks: &str) -> Result<String> {
    let mut document: serde_json::Value = serde_json::from_str(jwks)?;
    let keys = document["keys"].as_array_mut().context("no keys")?;
    for key in keys {
        key["use"] = "jwt-svid".into();
    }
    Ok(document.to_string())
}
