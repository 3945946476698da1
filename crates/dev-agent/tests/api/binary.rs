use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use dev_agent::pb;
use spiffe::{X509BundleSet, X509SourceBuilder};
use tonic::Code;

use crate::process::{Running, command, entry};
use crate::support::{TestAgent, another_user, assert_status, connect, install, soon, with_header};

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
async fn w014_it_says_what_it_is_for_then_that_it_is_ready_and_ends_on_a_signal() {
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
async fn it_can_be_set_by_the_environment() {
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
async fn w012_an_agent_that_was_killed_is_followed_by_one_with_other_keys() {
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
    assert!(socket.exists(), "W6: it could not clean up");
    let _next = start();
    while bundles() == old {
        soon(updates.changed()).await.unwrap();
    }
    let root = |bundles: &X509BundleSet| {
        let (_, bundle) = bundles.iter().next().unwrap();
        assert_eq!(
            bundle.authorities().len(),
            1,
            "the old CA is trusted no more"
        );
        bundle.authorities()[0].as_bytes().to_vec()
    };
    assert_ne!(root(&bundles()), root(&old));
}

#[tokio::test]
async fn w137_no_token_and_no_key_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("a.sock");
    let mut command = command();
    let command = command
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(&socket)
        .env("RUST_LOG", "trace");
    let (mut running, _) = Running::start(command);
    // Read all the time: it waits when nobody does.
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
    // "W13": as a library would print bytes, and as people do.
    let part = &key[40..56];
    let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
    for text in [format!("{part:?}"), part.escape_ascii().to_string(), hex] {
        assert!(!log.contains(text.trim_matches(['[', ']'])), "{log}");
    }
}

#[tokio::test]
async fn w150_running_out_of_file_descriptors_is_survived() {
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

/// An agent that may not read which binary runs does not guess.
#[tokio::test]
async fn w052_an_agent_of_another_user_attests_no_paths() {
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
