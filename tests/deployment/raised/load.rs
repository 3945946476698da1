use harness::{
    Stack,
    admin::Admin,
    binary,
    https::get,
    metrics::Page,
    process::{self, Process, free_ports},
    prometheus::Prometheus,
    upstream::HoldingUpstream,
};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::{MINUTE, nothing};

/// Starts a server by a shell, which runs `before` first and sends the log where `after` says. Returns it, its
/// port, and its admin listener.
async fn in_shell(stack: &Stack, before: &str, after: &str) -> (Process, u16, Admin) {
    let [port, admin] = free_ports();
    let (listen, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
    let args = ["--listen", &listen, "--admin", &admin];
    let script = format!("{before} exec \"$0\" \"$@\" {after}");
    let command = process::in_shell(&script, &binary("server"), &stack.agent.endpoint(), &args);
    let process = match after {
        "" => Process::spawn(command),
        _ => Process::spawn_unread(command),
    };
    let admin = Admin::Ip(admin);
    let address = admin.address().to_owned();
    harness::wait::until(async || TcpStream::connect(&address).await.is_ok()).await;
    admin.becomes("ready", "serving", "met").await;
    (process, port, admin)
}

#[tokio::test]
async fn refusals_that_rise_are_raised_with_their_reason() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let Some(prometheus) = Prometheus::start(&[&admin], MINUTE).await else {
        return;
    };
    let https = stack.https(server.listening().await);
    let expired = stack.token(|jwt| jwt.payload["exp"] = 1.into());
    let labels = [("role", "server"), ("reason", "expired")];
    let ask = async || assert_eq!(https.status(&expired).await, 401);
    prometheus.fires("SpiffeRefusalsRising", &labels, ask).await;
    server.logged("reason=expired").await;
    let page = Page::of(&admin).await;
    assert!(page.at("spiffe_refusals_total{reason=\"expired\"}") > 1.0);
}

#[tokio::test]
async fn requests_over_the_limit_are_raised_with_their_cause() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let (proxy, admin) = stack
        .proxy_with_admin(slow.port, &["--max-requests", "1"])
        .await;
    let Some(prometheus) = Prometheus::start(&[&admin], MINUTE).await else {
        return;
    };
    let https = stack.https(proxy.listening().await);
    let held = {
        let https = https.clone();
        tokio::spawn(async move { https.send(get(&[])).await.status })
    };
    slow.arrived(1).await;
    let labels = [("instance", admin.address()), ("cause", "overloaded")];
    let ask = async || assert_eq!(https.send(get(&[])).await.status, 503);
    prometheus.fires("SpiffeShedding", &labels, ask).await;
    proxy.logged("reason=overloaded").await;
    slow.release(1);
    assert_eq!(held.await.unwrap(), 200);
}

#[tokio::test]
async fn lost_log_lines_and_files_that_run_out_are_raised() {
    let stack = Stack::new().await;
    let (full, port, unlogged) = in_shell(&stack, "", "2>/dev/full").await;
    let (limited, limited_port, scarce) = in_shell(&stack, "ulimit -n 80;", "").await;
    let Some(prometheus) = Prometheus::start(&[&unlogged, &scarce], MINUTE).await else {
        return;
    };
    let https = stack.https(port);
    let ask = async || assert_eq!(https.send(get(&[])).await.status, 401);
    let labels = [("instance", unlogged.address())];
    prometheus.fires("SpiffeLogLinesLost", &labels, ask).await;
    assert!(Page::of(&unlogged).await.at("spiffe_log_lines_lost_total") >= 1.0);

    let mut open = Vec::new();
    harness::wait::until(async || {
        let page = Page::of(&scarce).await;
        // This query takes a descriptor itself.
        let is_full = page.at("process_open_fds") > 0.9 * page.at("process_max_fds") + 1.0;
        if !is_full {
            open.push(
                TcpStream::connect(("127.0.0.1", limited_port))
                    .await
                    .unwrap(),
            );
        }
        is_full
    })
    .await;
    let labels = [("instance", scarce.address())];
    prometheus
        .fires("SpiffeFilesRunOut", &labels, nothing)
        .await;
    limited.logged("but this process may have only 80").await;
    drop((full, open));
}

#[tokio::test]
async fn process_that_was_killed_is_raised_as_gone() {
    let stack = Stack::new().await;
    let (mut server, admin) = stack.server_with_admin(&[]).await;
    let Some(prometheus) = Prometheus::start(&[&admin], MINUTE).await else {
        return;
    };
    server.signal(Signal::SIGKILL);
    server.ended().await;
    let labels = [("instance", admin.address())];
    prometheus
        .fires("SpiffeProcessGone", &labels, nothing)
        .await;
}
