use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use dev_agent::pb;
use spiffe::{X509BundleSet, X509SourceBuilder};
use tonic::Code;

use crate::{
    process::{Running, command, entry},
    support::{TestAgent, another_user, assert_status, connect, install, soon, with_header},
};

/// Runs dev-agent, and returns its exit code and standard error.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command().args(args).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

async fn fetch(socket: &Path) -> pb::X509svidResponse {
    let mut client = connect(&format!("unix://{}", socket.display())).await;
    let request = with_header(pb::X509svidRequest {});
    let mut stream = client.fetch_x509svid(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap()
}

#[tokio::test]
async fn the_log_warns_then_says_ready_and_a_signal_ends_the_agent_w014() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    for signal in ["-TERM", "-INT"] {
        let (mut running, lines) = Running::start(
            command()
                .args(["--entry", &entry()])
                .arg("--socket")
                .arg(&socket),
        );
        assert!(lines[0].contains("for development only"), "{lines:?}");
        let ready = format!("listening on unix://{}", socket.display());
        assert!(lines.last().unwrap().ends_with(&ready), "{lines:?}");

        assert_eq!(
            fetch(&socket).await.svids[0].spiffe_id,
            "spiffe://example.org/a"
        );
        let granted = running.log().next().unwrap();
        let pid = format!("pid={}", std::process::id());
        for part in ["granted: spiffe://example.org/a", &pid, "uid=", "path="] {
            assert!(granted.contains(part), "{granted}");
        }
        running.stop(signal);
        assert!(!socket.exists());
    }
}

#[tokio::test]
async fn options_are_read_from_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let other = TestAgent::start(&["spiffe://b.test/y=unix:uid:{uid}"]).await;
    let bundle = directory.path().join("b.json");
    fs::write(&bundle, other.federation().document()).unwrap();
    let entries = format!("{}\n{};hint=second", entry(), entry().replace("/a=", "/b="));
    let (running, _) = Running::start(
        command()
            .env("DEV_AGENT_ENTRY", entries)
            .env(
                "DEV_AGENT_FEDERATE",
                format!("spiffe://b.test={}", bundle.display()),
            )
            .env(
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}", socket.display()),
            ),
    );
    let answer = fetch(&socket).await;
    assert_eq!(answer.svids[1].hint, "second");
    assert!(answer.federated_bundles.contains_key("spiffe://b.test"));
    running.stop("-TERM");
}

#[tokio::test]
async fn an_agent_that_replaces_a_killed_one_has_other_keys_w012() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let start = || {
        let mut command = command();
        Running::start(
            command
                .args(["--entry", &entry()])
                .arg("--socket")
                .arg(&socket),
        )
        .0
    };
    let killed = start();
    let endpoint = format!("unix://{}", socket.display());
    let source = X509SourceBuilder::new()
        .endpoint(&endpoint)
        .reconnect_backoff(Duration::from_millis(20), Duration::from_millis(50))
        .build();
    let source = soon(source).await.unwrap();
    let mut updates = source.updated();
    let bundles = || source.bundle_set().unwrap();
    let old = bundles();

    drop(killed);
    assert!(socket.exists(), "W6: the killed agent left it behind");
    let _next = start();
    while bundles() == old {
        soon(updates.changed()).await.unwrap();
    }
    let root = |bundles: &X509BundleSet| {
        let (_, bundle) = bundles.iter().next().unwrap();
        assert_eq!(
            bundle.authorities().len(),
            1,
            "the old CA is not trusted any more"
        );
        bundle.authorities()[0].as_bytes().to_vec()
    };
    assert_ne!(root(&bundles()), root(&old));
}

#[tokio::test]
async fn no_token_and_no_key_is_logged_w137() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let mut command = command();
    let command = command
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(&socket)
        .env("RUST_LOG", "trace");
    let (mut running, _) = Running::start(command);
    // The log is read all the time, because the agent waits for its reader.
    let log = running.log.take().unwrap();
    let log = std::thread::spawn(|| log.map(Result::unwrap).collect::<Vec<_>>().join("\n"));
    let key = fetch(&socket).await.svids.remove(0).x509_svid_key;
    let mut client = connect(&format!("unix://{}", socket.display())).await;
    let request = pb::JwtsvidRequest {
        audience: vec!["x".to_owned()],
        spiffe_id: String::new(),
    };
    let token = client.fetch_jwtsvid(with_header(request)).await.unwrap();
    let token = token.into_inner().svids.remove(0).svid;
    for (audience, valid) in [("x", true), ("y", false)] {
        let request = pb::ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.clone(),
        };
        let answer = client.validate_jwtsvid(with_header(request)).await;
        assert_eq!(answer.is_ok(), valid);
    }
    running.child.kill().unwrap();
    let log = log.join().unwrap();
    assert!(log.contains("found invalid"), "{log}");
    for part in token.split('.') {
        assert!(!log.contains(part), "{log}");
    }
    // "W13": in the spellings of libraries and of people.
    let part = &key[40..56];
    let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
    for text in [format!("{part:?}"), part.escape_ascii().to_string(), hex] {
        assert!(!log.contains(text.trim_matches(['[', ']'])), "{log}");
    }
}

#[tokio::test]
async fn an_agent_without_file_descriptors_waits_and_serves_again_w150() {
    const WANTED: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -n 30; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_dev-agent"))
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(&socket)
        .stderr(Stdio::piped());
    let (mut running, _) = Running::start(&mut shell);
    let held: Vec<_> = (0..WANTED)
        .map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap())
        .collect();
    assert!(running.log().any(|line| line.contains("cannot accept")));
    drop(held);
    let answer = soon(fetch(&socket)).await;
    assert_eq!(answer.svids[0].spiffe_id, "spiffe://example.org/a");
    running.child.kill().unwrap();
    let failures = running.log().filter(|line| line.contains("cannot accept"));
    assert!(failures.count() < 20, "it backs off");
}

#[tokio::test]
async fn an_agent_of_another_user_attests_no_paths_w052() {
    let Some(user) = another_user() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid)).unwrap();
    let binary = directory.path().join("dev-agent");
    install(env!("CARGO_BIN_EXE_dev-agent").as_ref(), &binary);
    let socket = directory.path().join("a.sock");
    let mut command = Command::new(&binary);
    command
        .args(["--entry", &format!("{},unix:path:/usr/bin/server", entry())])
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(&socket)
        .current_dir("/")
        .uid(uid)
        .gid(gid)
        .stderr(Stdio::piped());
    let (_running, _) = Running::start(&mut command);
    let mut client = connect(&format!("unix://{}", socket.display())).await;
    let request = with_header(pb::X509svidRequest {});
    let status = client.fetch_x509svid(request).await.unwrap_err();
    assert_status(&status, Code::Unavailable, "workload attestation failed");
}

#[test]
fn bad_settings_exit_with_2_and_failed_starts_with_1() {
    let entry = entry();
    let (code, message) = refused(&[]);
    assert_eq!(code, Some(2));
    assert!(message.contains("--entry"), "{message}");

    let (code, message) = refused(&["--entry", "spiffe://example.org/a=unix:uid:007"]);
    assert_eq!(code, Some(2));
    assert!(message.contains("without leading zeros"), "{message}");

    let output = command()
        .args(["--entry", &entry])
        .env("DEV_AGENT_JWT_TTL", "5")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for part in ["'5' for '--jwt-ttl", "variable DEV_AGENT_JWT_TTL is set"] {
        assert!(message.contains(part), "{message}");
    }

    let (code, message) = refused(&["--entry", &entry, "--socket", "/nowhere/a.sock"]);
    assert_eq!(code, Some(1));
    assert!(message.contains("create the directory"), "{message}");

    for flag in ["--help", "--version"] {
        assert_eq!(refused(&[flag]).0, Some(0));
    }
}
