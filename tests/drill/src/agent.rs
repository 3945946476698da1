//! Stops, stalls and replaces the agent.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::{
    findings::{A_WHILE, Findings, SOON},
    node::{Node, until},
    scale::Scale,
    stack::Stack,
    tally::Wanted,
};

/// A stack may give these answers while its identities are replaced without an overlap, or have
/// expired.
const WITHOUT_IDENTITY: Wanted = Wanted {
    statuses: &[401, 502, 503],
    broken: true,
    lost_posts: &[],
};

/// Stops the agent for a minute. Each workload warns of the beginning and of the end, and recovers
/// without help.
pub(crate) async fn stopped(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    let written = stack.workloads().map(Node::written);
    let down_for = format!("{}s", scale.seconds(60).as_secs());
    stack.ctl(&["restart", "--down-for", &down_for]).await?;
    let begun = Instant::now();
    for (node, written) in stack.workloads().into_iter().zip(written) {
        node.logged("the Workload API is back", written).await?;
    }
    found.within("all back", begun.elapsed(), SOON);
    for (node, written) in stack.workloads().into_iter().zip(written) {
        warned(node, written, 2, found)?;
    }
    Ok(())
}

/// Stalls the agent for a minute. No workload warns, because the SVIDs live longer.
pub(crate) async fn stalled(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    let written = stack.workloads().map(Node::written);
    stack.ctl(&["stall"]).await?;
    sleep(scale.seconds(60)).await;
    stack.ctl(&["unstall"]).await?;
    sleep(A_WHILE / 2).await;
    for (node, written) in stack.workloads().into_iter().zip(written) {
        warned(node, written, 0, found)?;
    }
    Ok(())
}

/// Restarts the agent with new keys. A workload that has the new keys and one that has the old keys
/// must refuse each other.
pub(crate) async fn new_keys(stack: &Stack, found: &mut Findings) -> Result<()> {
    found.strict(stack.load.take());
    let written = stack.workloads().map(Node::written);
    stack.ctl(&["restart", "--new-keys"]).await?;
    let begun = Instant::now();
    for (node, written) in stack.workloads().into_iter().zip(written) {
        node.logged("identity updated", written).await?;
    }
    let caller = stack.load.caller();
    until(async || {
        let token = caller.tokens.token().await.ok()?;
        match caller.status(token.token()).await.ok()?.as_u16() {
            200 => Some(()),
            401 => {
                caller.tokens.invalidate(&token);
                None
            }
            _ => None,
        }
    })
    .await?;
    found.within("all on the new keys", begun.elapsed(), SOON);
    // Callers that were refused last send their next request now.
    sleep(A_WHILE / 2).await;
    found.allowing(stack.load.take(), WITHOUT_IDENTITY);
    sleep(A_WHILE / 2).await;
    Ok(())
}

/// Stops the agent of another stack until its SVIDs expire, which live for seconds.
pub(crate) async fn svid_expires(found: &mut Findings) -> Result<()> {
    const A_FEW_REQUESTS: f64 = 200.0;
    let stack = Stack::with_agent(&["--x509-ttl", "9s"]).await?;
    stack.load.go(Some(A_FEW_REQUESTS));
    let written = stack.workloads().map(Node::written);
    let (_, stopped) = tokio::join!(
        async {
            let mut told = Vec::new();
            for text in ["lost the Workload API", "no new X.509-SVID has come"] {
                told.push(stack.proxy.logged(text, written[2]).await);
            }
            // The SVIDs have not expired before this point.
            found.strict(stack.load.take());
            for (node, written) in stack.workloads().into_iter().zip(written) {
                told.push(node.logged("the X.509-SVID has expired", written).await);
            }
            let port = stack.proxy.port();
            let connected = match port {
                Ok(port) => stack.load.caller().connect(port).await.is_ok(),
                Err(_) => true,
            };
            found.check(!connected, "an expired SVID is presented");
            for told in told {
                found.check(told.is_ok(), "a step was not logged");
            }
        },
        stack.ctl(&["restart", "--down-for", "14s"])
    );
    stopped?;
    let begun = Instant::now();
    for (node, written) in stack.workloads().into_iter().zip(written) {
        node.logged("the Workload API is back", written).await?;
    }
    found.within("all back", begun.elapsed(), SOON);
    sleep(Duration::from_millis(500)).await;
    found.allowing(stack.load.take(), WITHOUT_IDENTITY);
    sleep(A_WHILE / 2).await;
    stack.load.rest();
    found.strict(stack.load.take());
    stack.end().await
}

/// Checks how many warnings the workload has logged after the first `written` bytes.
fn warned(node: &Node, written: usize, times: usize, found: &mut Findings) -> Result<()> {
    let log = node.log_since(written)?;
    let warnings: Vec<_> = log
        .iter()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .collect();
    let count = warnings.len();
    let name = node.name();
    found.check(
        count == times,
        format!("{name}: {count} warnings instead of {times}: {warnings:?}"),
    );
    Ok(())
}
