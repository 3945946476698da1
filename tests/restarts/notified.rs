use std::{path::Path, time::Duration};

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    https::get,
    manager::{Manager, has_line},
    wait::until_some,
};
use nix::sys::signal::Signal;
use spiffe::SpiffeId;
use tokio::time::timeout;

#[tokio::test]
async fn process_is_ready_when_it_serves_and_tells_what_it_waits_for_until_then() {
    let stack = Stack::new().await;
    for (name, args) in [
        ("server", &[] as &[&str]),
        ("proxy", &[]),
        ("client", &["--url", "https://localhost:1"]),
    ] {
        let manager = Manager::start();
        stack.agent.stop().await;
        let args = [&["--listen", "127.0.0.1:0"], args].concat();
        let process = manager.spawn(&stack, name, &args);
        let before = manager.told("no such socket; start the agent").await;
        let last = before.last().unwrap();
        assert!(
            last.starts_with("STATUS=waiting for an identity from the Workload API: "),
            "{last}"
        );
        assert!(before[0].starts_with("EXTEND_TIMEOUT_USEC="), "{before:?}");

        stack.agent.restart().await.unwrap();
        let states = manager.told("READY=1").await;
        let port = process.listening().await;
        let ready = states.last().unwrap();
        let listening = format!("STATUS=listening on 127.0.0.1:{port}");
        assert!(
            has_line(ready, "READY=1") && has_line(ready, &listening),
            "{ready}"
        );
        if name == "server" {
            assert_eq!(stack.https(port).send(get(&[])).await.status, 401);
        }
        process.stop().await;
    }
}

#[tokio::test]
async fn process_in_its_sandbox_tells_a_manager_with_an_abstract_socket() {
    let stack = Stack::new().await;
    let manager = Manager::with_abstract_name();
    let _server = manager.spawn(&stack, "server", &["--listen", "127.0.0.1:0"]);
    manager.told("READY=1").await;
}

#[tokio::test]
async fn reload_of_a_policy_is_told_with_its_outcome() {
    let stack = Stack::new().await;
    let manager = Manager::start();
    let policy = manager.path("policy.toml");
    let rule = "[[rule]]\npaths = [\"/a\"]\npublic = true\n";
    std::fs::write(&policy, rule).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--policy", &policy];
    let server = manager.spawn(&stack, "server", &args);
    manager.told("READY=1").await;
    for (text, outcome) in [
        ("x = 1", "; the policy before it stays in force: "),
        (rule, "; policy in force, rules: 1"),
    ] {
        // The check of the file each second has an outcome too. The awaited one follows the signal.
        replace(Path::new(&policy), text);
        server.signal(Signal::SIGHUP);
        let begun = manager.reloaded(outcome).await;
        let clock = begun.split_once("MONOTONIC_USEC=").unwrap().1;
        assert!(clock.parse::<u64>().unwrap() > 0, "{begun}");
    }
}

#[tokio::test]
async fn server_with_a_policy_of_flags_outlives_a_reload_of_its_service() {
    let stack = Stack::new().await;
    let manager = Manager::start();
    let server = manager.spawn(&stack, "server", &["--listen", "127.0.0.1:0"]);
    manager.told("READY=1").await;
    server.signal(Signal::SIGHUP);
    manager.reloaded("; policy of the flags in force").await;
    server.logged("nothing is read again").await;
}

#[tokio::test]
async fn server_with_a_policy_of_flags_outlives_a_reload_before_it_has_an_identity() {
    let manager = Manager::start();
    let args = ["--listen", "127.0.0.1:0"];
    let mut server = manager.spawn_at("unix:///no/such/agent.sock", "server", &args, &[]);
    manager.told("waiting for an identity").await;
    server.signal(Signal::SIGHUP);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
}

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn outage_and_withdrawal_are_told_until_they_end() {
    let stack = Stack::new().await;
    let manager = Manager::start();
    let _server = manager.spawn(&stack, "server", &["--listen", "127.0.0.1:0"]);
    manager.told("READY=1").await;

    stack.agent.stop().await;
    let states = manager.told("; lost the Workload API; continuing").await;
    let lost = states.last().unwrap();
    let left = lost.rsplit_once("for ").unwrap().1;
    assert!(left.ends_with(['h', 'm', 's']), "{lost}");
    stack.agent.restart().await.unwrap();
    manager
        .told_when(|state| state.starts_with("STATUS=listening on") && !state.contains(';'))
        .await;

    let id = SpiffeId::new(SERVER_ID).unwrap();
    stack.agent.withdraw(&id);
    manager.told("; identity withdrawn").await;
}

#[tokio::test]
async fn stop_is_told_with_the_time_that_it_may_take() {
    let stack = Stack::new().await;
    let manager = Manager::start();
    let args = ["--listen", "127.0.0.1:0", "--drain-timeout", "200s"];
    let mut server = manager.spawn(&stack, "server", &args);
    manager.told("READY=1").await;
    server.signal(Signal::SIGTERM);
    let states = manager.told("STOPPING=1").await;
    let stopping = states.last().unwrap();
    assert!(
        has_line(stopping, "EXTEND_TIMEOUT_USEC=210000000")
            && stopping.contains("STATUS=stopping: "),
        "{stopping}"
    );
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn watchdog_gets_signs_of_life_while_the_process_runs() {
    let stack = Stack::new().await;
    for (pid, is_ours) in [(None, true), (Some("1"), false)] {
        let manager = Manager::start();
        let pid = pid.map(|pid| ("WATCHDOG_PID", pid));
        let environment: Vec<_> = pid
            .into_iter()
            .chain([("WATCHDOG_USEC", "150000")])
            .collect();
        let server =
            manager.spawn_with(&stack, "server", &["--listen", "127.0.0.1:0"], &environment);
        let states = manager.told("READY=1").await;
        if !is_ours {
            assert!(!states.iter().any(|one| one.contains("WATCHDOG")));
            continue;
        }
        for _ in 0..3 {
            assert!(has_line(
                manager.told("WATCHDOG").await.last().unwrap(),
                "WATCHDOG=1"
            ));
        }
        server.suspend().await;
        while timeout(Duration::ZERO, manager.next()).await.is_ok() {}
        let sign = timeout(Duration::from_millis(500), manager.next()).await;
        assert!(sign.is_err(), "{sign:?}");
        server.signal(Signal::SIGCONT);
        manager.told("WATCHDOG=1").await;
    }
}

#[tokio::test]
async fn client_with_a_token_file_is_ready_when_the_file_is_there() {
    let stack = Stack::new().await;
    let manager = Manager::start();
    let (file, seen) = (manager.path("token"), manager.path("seen"));
    let script = manager.path("after.sh");
    // The program after a new token must not speak for this process.
    std::fs::write(&script, format!("env > {seen}.new && mv {seen}.new {seen}")).unwrap();
    let command = format!("/bin/sh {script}");
    let args = [
        "--token-file",
        &file,
        "--token-command",
        &command,
        SERVER_ID,
    ];
    let watchdog = [("WATCHDOG_USEC", "30000000")];
    let _client = manager.spawn_with(&stack, "client", &args, &watchdog);
    let states = manager.told("READY=1").await;
    let ready = states.last().unwrap();
    assert!(
        Path::new(&file).exists() && ready.contains("/token has a JWT-SVID until 2"),
        "{ready}"
    );
    let written = until_some(async || std::fs::read_to_string(&seen).ok()).await;
    assert!(
        !written.contains("NOTIFY_SOCKET") && !written.contains("WATCHDOG"),
        "{written}"
    );

    stack.agent.withdraw(&SpiffeId::new(CLIENT_ID).unwrap());
    manager.told("is removed, because it has no JWT-SVID").await;
}
