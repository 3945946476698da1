use std::time::Duration;

use nix::sys::signal::Signal;

use harness::{
    CLIENT_ID, SERVER_ID, Stack, binary,
    process::{self, Process},
};

/// Returns the lines of a log about the identity, without times and values.
fn told(log: &str) -> Vec<String> {
    const KNOWN: [&str; 8] = [
        "identity issued",
        "identity updated",
        "lost the Workload API",
        "the Workload API is back",
        "identity withdrawn",
        "the identity is issued again",
        "listening on",
        "stopped",
    ];
    let lines = log.lines();
    let known = lines.filter_map(|line| KNOWN.iter().find(|known| line.contains(**known)));
    known.map(|known| (*known).to_owned()).collect()
}

/// The agent is a process of its own, which is killed and started again with other keys.
#[tokio::test]
async fn killed_agent_that_returns_is_logged_in_order_w012() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let endpoint = format!("unix://{}", socket.display());
    let entry = |id, name| {
        let path = binary(name);
        format!("--entry={id}=unix:path:{};dns=localhost", path.display())
    };
    let entries = [
        entry(SERVER_ID, "server"),
        entry(SERVER_ID, "proxy"),
        entry(CLIENT_ID, "client"),
    ];
    let agent = || {
        let socket = format!("--socket={}", socket.display());
        let mut args: Vec<&str> = entries.iter().map(String::as_str).collect();
        args.push(&socket);
        process::spawn("dev-agent", "", &args)
    };
    let mut running = agent();
    let mut server = process::spawn("server", &endpoint, &["--listen", "127.0.0.1:0"]);
    let port = server.listening().await;
    let upstream = format!("https://localhost:{port}");
    let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    let mut proxy = process::spawn("proxy", &endpoint, &args);
    let url = format!("https://localhost:{}/", proxy.listening().await);
    let mut client = process::command(
        &binary("client"),
        &endpoint,
        &["--every", "50ms", "--url", &url],
    );
    client.stdout(std::process::Stdio::null());
    let client = Process::spawn(client);
    // The client has everything that it needs at start.
    server.logged("Request received").await;
    for trial in 1..=3 {
        running.signal(Signal::SIGKILL);
        running.ended().await;
        for process in [&server, &proxy, &client] {
            process.logged_times("lost the Workload API", trial).await;
        }
        running = agent();
        for process in [&server, &proxy, &client] {
            process
                .logged_times("the Workload API is back", trial)
                .await;
        }
    }
    let trial = [
        "lost the Workload API",
        "identity updated",
        "the Workload API is back",
    ];
    let mut expected = vec!["identity issued", "listening on"];
    expected.extend([trial; 3].concat());
    expected.push("stopped");
    assert_eq!(told(&proxy.whole_log().await), expected);
    // The server has two streams. The second update may come before or after the line.
    let log = server.whole_log().await;
    assert_eq!(log.matches("lost the Workload API").count(), 3, "{log}");
    assert_eq!(log.matches("the Workload API is back").count(), 3, "{log}");
    assert_eq!(log.matches("identity updated").count(), 6, "{log}");
    assert!(log.lines().last().unwrap().ends_with("stopped"), "{log}");
}

#[tokio::test]
async fn update_is_one_line_that_says_what_changed() {
    let stack = Stack::new().await;
    let mut server = stack.server(&[]).await;
    stack.agent.rotate_x509();
    let line = server.logged("identity updated").await;
    assert!(
        line.contains("X.509-SVID ") && line.contains(" until "),
        "{line}"
    );
    stack.agent.rotate_jwt_key();
    server
        .logged("JWT bundle of example.org (keys added: ")
        .await;
    stack.agent.drop_old_jwt_key();
    server.logged("keys added: none; removed: ").await;
    stack.agent.rotate_ca();
    let line = server
        .logged("X.509 bundle of example.org (authorities: 2, 1 new, 0 removed)")
        .await;
    assert!(line.contains("identity updated"), "{line}");
    let log = server.whole_log().await;
    let updates = log.matches("identity updated").count();
    // A CA is published before it is used, which makes two changes.
    assert!((4..=6).contains(&updates), "{log}");
}

/// The agent was reachable all the time, so that its return is not logged.
#[tokio::test]
async fn svid_that_comes_late_is_not_logged_as_a_return_of_the_agent() {
    let short = |config: &mut dev_agent::Config| config.x509_ttl = Duration::from_secs(4);
    let stack = Stack::with(SERVER_ID, short).await;
    let mut server = stack.server(&[]).await;
    stack.agent.stall();
    server.logged("the X.509-SVID has expired").await;
    stack.agent.unstall();
    server.logged("a new X.509-SVID has come").await;
    let log = server.whole_log().await;
    assert!(
        !log.contains("is back") && !log.contains("lost the"),
        "{log}"
    );
}
