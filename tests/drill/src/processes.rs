//! Stops, kills and overloads processes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::{process::Command, task::JoinSet, time::sleep};

use crate::{
    findings::{A_WHILE, Findings},
    load::{KEPT, RECONNECTING, Traffic},
    node::{stop, until},
    request::Sequence,
    scale::Scale,
    stack::Stack,
    tally::{Tally, Wanted},
};

/// No server is behind the proxy.
const NO_SERVER: Wanted = Wanted {
    statuses: &[502, 503, 504],
    broken: false,
    lost_posts: &[],
};
/// One of two servers is killed, and the other one can answer all GETs.
const ONE_SERVER_GONE: Wanted = Wanted {
    statuses: &[],
    broken: false,
    lost_posts: &[502],
};
/// Any request may be refused or lost.
const ANY_LOSS: Wanted = Wanted {
    statuses: &[401, 502, 503, 504],
    broken: true,
    lost_posts: &[],
};
const SHED: Wanted = Wanted {
    statuses: &[503],
    broken: false,
    lost_posts: &[],
};

/// Restarts one server after the other, so that the proxy always has one.
pub(crate) async fn server_restarted(stack: &mut Stack) -> Result<()> {
    for index in 0..stack.servers.len() {
        stack.servers[index].stop().await?;
        sleep(A_WHILE / 2).await;
        stack.servers[index].start_again().await?;
        sleep(A_WHILE / 2).await;
    }
    Ok(())
}

/// Restarts the only server. Only requests that come while there is none are refused.
pub(crate) async fn only_server_restarted(stack: &mut Stack, found: &mut Findings) -> Result<()> {
    let [only, other] = &mut stack.servers;
    other.stop().await?;
    sleep(A_WHILE / 2).await;
    found.strict(stack.load.take());
    let begun = Instant::now();
    only.stop().await?;
    only.start_again().await?;
    let gap = begun.elapsed();
    served(&stack.load).await?;
    found.allowing(stack.load.take(), NO_SERVER);
    found.note(format!("the gap was {} ms", gap.as_millis()));
    sleep(A_WHILE / 2).await;
    found.strict(stack.load.take());
    other.start_again().await?;
    Ok(())
}

/// Restarts the proxy. If the socket is handed over, the old proxy may end first, and new
/// connections wait in the kernel. If the port is shared, the new proxy listens before the old one
/// ends.
pub(crate) async fn proxy_restarted(stack: &mut Stack, old_first: bool) -> Result<()> {
    for _ in 0..3 {
        if old_first {
            stack.proxy.stop().await?;
            stack.proxy.start_again().await?;
        } else {
            let mut old = stack.proxy.start_again().await?;
            stop("proxy", &mut old).await?;
        }
        sleep(A_WHILE / 2).await;
    }
    Ok(())
}

/// Kills one server after the other. The proxy uses both again before the next kill, so that a GET
/// always has a server that can answer it.
pub(crate) async fn server_killed(
    stack: &mut Stack,
    scale: Scale,
    found: &mut Findings,
) -> Result<()> {
    let times = scale.times(40);
    found.strict(stack.load.take());
    for number in 0..times {
        let server = &mut stack.servers[number as usize % 2];
        sleep(Duration::from_millis(random()?.into())).await;
        server.kill().await;
        let written = server.written();
        server.start_again().await?;
        until(async || server.has_served_since(written).ok()?.then_some(())).await?;
    }
    sleep(A_WHILE / 2).await;
    let [_, posts] = found.allowing(stack.load.take(), ONE_SERVER_GONE);
    found.note(format!("{times} times"));
    let in_flight = u64::from(times * (KEPT + RECONNECTING));
    found.check(
        posts.lost <= in_flight,
        format!(
            "{} POSTs were lost, but {in_flight} were in flight",
            posts.lost
        ),
    );
    Ok(())
}

/// Returns a random byte.
fn random() -> Result<u8> {
    let random = aws_lc_rs::rand::generate::<[u8; 1]>(&aws_lc_rs::rand::SystemRandom::new());
    let [random] = random.context("no random numbers")?.expose();
    Ok(random)
}

/// Kills processes at random. Each starts again, and no state of the killed process hinders it.
pub(crate) async fn killed(stack: &mut Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    let times = scale.times(100);
    found.strict(stack.load.take());
    for number in 0..times {
        let which = random()?;
        sleep(Duration::from_millis(u64::from(random()?) / 4)).await;
        let [first, second] = &mut stack.servers;
        // The agent is killed less often, because everything must start again with its new keys.
        let node = match which % 10 {
            0 => &mut stack.agent,
            1..=3 => &mut stack.proxy,
            4..=6 => first,
            _ => second,
        };
        node.kill().await;
        let name = node.name().to_owned();
        let started = node.start_again().await;
        started
            .with_context(|| format!("{name}, killed as number {number}, did not start again"))?;
    }
    served(&stack.load).await?;
    sleep(A_WHILE).await;
    let [_, posts] = found.allowing(stack.load.take(), ANY_LOSS);
    found.note(format!(
        "{times} times; {} of the refused are POSTs",
        posts.refused
    ));
    sleep(A_WHILE / 2).await;
    Ok(())
}

/// Adds a thousand callers, each of which sends the next request once the last is answered.
pub(crate) async fn overload(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    const CALLERS: usize = 1000;
    found.strict(stack.load.take());
    let caller = stack.load.shared_caller();
    let end = Instant::now() + scale.seconds(10);
    let mut crowd = JoinSet::new();
    for number in 0..CALLERS {
        let caller = caller.clone();
        let sequence = Sequence::of(u64::from(KEPT + RECONNECTING) + number as u64);
        crowd.spawn(async move { caller.insist(sequence, end).await });
    }
    let mut all = Tally::default();
    while let Some(tally) = crowd.join_next().await {
        all.add(tally??);
    }
    let [gets, posts] = all.judge(SHED);
    let judged = gets + posts;
    let good = all.requests() - judged.refused - judged.failed;
    served(&stack.load).await?;
    found.allowing(stack.load.take(), SHED);
    found.note(format!(
        "of the crowd's requests {good} served, {} shed, {} failed",
        judged.refused, judged.failed
    ));
    found.check(
        judged.failed == 0,
        format!("the crowd: {:?}", all.failures(SHED)),
    );
    found.check(
        good > 0 && judged.refused > 0,
        "no request was shed, or all were",
    );
    sleep(A_WHILE / 2).await;
    Ok(())
}

/// Takes all file descriptors from the proxy. Existing connections are served, and new ones wait
/// until descriptors are there again.
pub(crate) async fn no_files_left(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    // A core that has just started has no connection to the servers, and could open none.
    sleep(A_WHILE).await;
    let pid = stack.proxy.pid().to_string();
    let before = stack.proxy.max_open_files()?;
    let written = stack.proxy.written();
    let limit = |text: String| {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid, &format!("--nofile={text}")]);
        async move {
            let status = command
                .status()
                .await
                .context("cannot run prlimit (util-linux)")?;
            ensure!(status.success(), "prlimit failed");
            Ok(())
        }
    };
    // The limit applies to the next descriptor. A limit of the number that is open would leave
    // gaps.
    limit("1:".into()).await?;
    let shortage = scale.seconds(5);
    sleep(shortage).await;
    let held_up = stack.load.take();
    limit(format!("{before}:")).await?;
    let raised = Instant::now();
    served(&stack.load).await?;
    found.note(format!("no descriptor for {} ms", shortage.as_millis()));
    found.within(
        "accepted again",
        raised.elapsed(),
        Duration::from_millis(500),
    );
    found.strict(held_up);
    let log = stack.proxy.log_since(written)?;
    let told = log.iter().filter(|line| line.contains("WARN")).count();
    found.check(
        told == 1,
        format!("logged {told} warnings instead of 1: {log:?}"),
    );
    sleep(A_WHILE).await;
    Ok(())
}

/// Waits until a request is answered 200.
async fn served(load: &Traffic) -> Result<()> {
    let caller = load.caller();
    until(async || {
        let token = caller.tokens.token().await.ok()?;
        let status = caller.status(token.token()).await.ok()?;
        if status == 401 {
            caller.tokens.invalidate(&token);
        }
        (status == 200).then_some(())
    })
    .await?;
    Ok(())
}
