//! Runs every combination of our server, proxy and client with those of go-spiffe, and dev-agent with
//! the gRPC library of Python. The Go program is in `go-spiffe/`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Federates dev-agent with the federation package of go-spiffe.
mod federation;
/// Calls dev-agent with grpcio.
mod grpcio;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use tokio::process::Command;

use harness::{
    PATIENCE, SERVER_ID, Stack,
    installed::go_program,
    process::{self, Process},
};

const OTHER_AUDIENCE: &str = "spiffe://example.org/some-other-server";

/// The implementation of a role, which is our binary or the one that uses go-spiffe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Player {
    Ours,
    Go,
}

use Player::{Go, Ours};

#[tokio::test]
async fn each_combination_with_go_spiffe_accepts_and_refuses_the_same() {
    let Some(directory) = go_program("interop/go-spiffe").await else {
        return;
    };
    let go = directory.path().join("program");
    let stack = stack(&go).await;
    for server in [Ours, Go] {
        let server_process = start(&stack, server, &go, "server", &[]).await;
        let upstream = format!("https://localhost:{}", server_process.listening().await);
        for proxy in [Ours, Go] {
            let proxy_process = start(&stack, proxy, &go, "proxy", &["upstream", &upstream]).await;
            let url = format!("https://localhost:{}/", proxy_process.listening().await);
            for client in [Ours, Go] {
                let combination = format!("client {client:?}, proxy {proxy:?}, server {server:?}");
                let accepted = request(&stack, client, &go, &url, None).await;
                assert_eq!(
                    accepted.stdout, b"Success!!!",
                    "{combination}: {accepted:?}"
                );
                assert!(accepted.status.success(), "{combination}");

                let refused = request(&stack, client, &go, &url, Some(OTHER_AUDIENCE)).await;
                assert_eq!(
                    String::from_utf8_lossy(&refused.stderr),
                    "401 Unauthorized\n",
                    "{combination}"
                );
                assert_eq!(refused.status.code(), Some(1), "{combination}");
            }
            proxy_process.logged("GET /").await;
        }
        server_process.logged("Request received").await;
        server_process
            .logged(r#"Invalid token: jwtsvid: expected audience in ["spiffe://example.org/server"] (audience=["spiffe://example.org/some-other-server"])"#)
            .await;
    }
}

#[tokio::test]
async fn certificates_are_accepted_in_both_directions_t027() {
    let Some(directory) = go_program("interop/go-spiffe").await else {
        return;
    };
    let go = directory.path().join("program");
    let stack = stack(&go).await;
    for server in [Ours, Go] {
        let peers = ["peers", SERVER_ID];
        let server_process = start(&stack, server, &go, "server", &peers).await;
        let upstream = format!("https://localhost:{}", server_process.listening().await);
        for proxy in [Ours, Go] {
            let listen = ["listen", "127.0.0.1:0", "upstream", &upstream];
            let mut args = flags(proxy, &listen);
            args.push(flag(proxy, "client-certificate"));
            let presenting = Process::spawn(command(&stack, proxy, &go, "proxy", args));
            let url = format!("https://localhost:{}/", presenting.listening().await);
            let output = request(&stack, Ours, &go, &url, None).await;
            let combination = format!("proxy {proxy:?}, server {server:?}");
            assert_eq!(output.stdout, b"Success!!!", "{combination}: {output:?}");
            let without = start(&stack, proxy, &go, "proxy", &["upstream", &upstream]).await;
            let url = format!("https://localhost:{}/", without.listening().await);
            let output = request(&stack, Ours, &go, &url, None).await;
            assert_eq!(output.stderr, b"502 Bad Gateway\n", "{combination}");
        }
    }
    let accept = ["client-certificates", "accept"];
    let server = start(&stack, Ours, &go, "server", &accept).await;
    let url = format!("https://localhost:{}/", server.listening().await);
    let mut args = flags(Go, &["url", &url]);
    args.push(flag(Go, "client-certificate"));
    let output = command(&stack, Go, &go, "client", args).output().await;
    assert_eq!(output.unwrap().stdout, b"Success!!!");
    server
        .logged(r#"caller=spiffe://example.org/client credential="certificate""#)
        .await;
}

/// Starts an agent with an entry for each role of the Go program, which has all three. The agent tells
/// them apart by the path of the copy.
async fn stack(go: &Path) -> Stack {
    Stack::with("spiffe://example.org/test", |config| {
        for (role, id) in [
            ("server", "server"),
            ("proxy", "server"),
            ("client", "client"),
        ] {
            let entry = format!(
                "spiffe://example.org/{id}=unix:path:{};dns=localhost",
                copy(go, role).display()
            );
            config.entries.push(entry.parse().unwrap());
        }
    })
    .await
}

/// Returns a flag, which has the same name for both. Ours have two dashes.
fn flag(player: Player, name: &str) -> String {
    let dashes = if player == Ours { "--" } else { "-" };
    format!("{dashes}{name}")
}

/// Returns flags with values, as [`flag`] does.
fn flags(player: Player, flags: &[&str]) -> Vec<String> {
    let pairs = flags.chunks(2);
    pairs
        .flat_map(|pair| [flag(player, pair[0]), pair[1].to_owned()])
        .collect()
}

fn command(stack: &Stack, player: Player, go: &Path, role: &str, args: Vec<String>) -> Command {
    match player {
        Ours => stack.command(role, &args),
        Go => process::command(
            &copy(go, role),
            &stack.agent.endpoint(),
            &[vec![role.to_owned()], args].concat(),
        ),
    }
}

async fn start(stack: &Stack, player: Player, go: &Path, role: &str, extra: &[&str]) -> Process {
    let args = flags(player, &[&["listen", "127.0.0.1:0"], extra].concat());
    Process::spawn(command(stack, player, go, role, args))
}

async fn request(
    stack: &Stack,
    player: Player,
    go: &Path,
    url: &str,
    audience: Option<&str>,
) -> Output {
    let mut args = flags(player, &["url", url]);
    match (player, audience) {
        (_, None) => {}
        (Ours, Some(audience)) => args.push(audience.to_owned()),
        (Go, Some(audience)) => args.extend(flags(Go, &["audience", audience])),
    }
    let run = command(stack, player, go, "client", args).output();
    tokio::time::timeout(PATIENCE, run)
        .await
        .expect("ends in time")
        .unwrap()
}

/// Returns a copy of the Go program for a role, so that the agent can tell roles apart by path.
fn copy(go: &Path, role: &str) -> PathBuf {
    let path = go.with_file_name(format!("go-{role}"));
    if !path.exists() {
        process::install(go, &path);
    }
    path.canonicalize().unwrap()
}
