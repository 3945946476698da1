//! Calls dev-agent with grpcio, the gRPC library of Python. The program is in `grpcio/`.

use nix::unistd::Uid;
use tokio::process::Command;

use harness::{PATIENCE, Stack, installed::python_packages};

/// The release that is installed for the test.
const GRPCIO: &str = "grpcio==1.85.3";

/// The `:authority` of other libraries and older releases, where one differs from the socket's path.
const AUTHORITIES: [&str; 6] = [
    "localhost",
    "/tmp/agent.sock",
    "tmp/agent.sock",
    "unix:///tmp/agent.sock",
    "unix:%2F%2F%2Ftmp%2Fagent.sock",
    "%2Ftmp%2Fagent.sock",
];

#[tokio::test]
async fn grpcio_gets_an_answer_whatever_its_authority_t001() {
    let installed = python_packages(env!("CARGO_TARGET_TMPDIR"), &[GRPCIO]);
    let Some(library) = installed.await else {
        return;
    };
    let stack = Stack::with("spiffe://example.org/test", |config| {
        let entry = format!("spiffe://example.org/python=unix:uid:{}", Uid::effective());
        config.entries.push(entry.parse().unwrap());
    })
    .await;
    let endpoint = stack.agent.endpoint();
    let path = endpoint.strip_prefix("unix://").unwrap();
    let (directory, file) = path.rsplit_once('/').unwrap();
    let mut targets = vec![
        endpoint.clone(),
        format!("unix:{path}"),
        format!("unix:{file}"),
    ];
    targets.extend(AUTHORITIES.map(|authority| format!("{endpoint}={authority}")));
    let run = Command::new("python3")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/interop/grpcio/client.py"
        ))
        .args(&targets)
        .env("PYTHONPATH", library)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(directory)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    let answered = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{answered}\n{errors}");
    assert_eq!(answered.lines().count(), targets.len(), "{answered}");
}
