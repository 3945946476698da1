//! Calls dev-agent with grpcio, the gRPC library of Python. The program is in `grpcio/`.

use std::path::Path;

use nix::unistd::Uid;
use tokio::process::Command;

use harness::{PATIENCE, Stack};

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
    let Some(library) = grpcio().await else {
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
        .env("PYTHONPATH", library.path())
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

/// Installs grpcio in a directory of its own. Skips the test if that fails, which CI does not allow.
async fn grpcio() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let error = match install(directory.path()).await {
        Ok(output) if output.status.success() => return Some(directory),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(
        !ci,
        "CI needs {GRPCIO} for the interoperation test: {error}"
    );
    harness::skip(&format!(
        "the interoperation test with grpcio needs Python with pip, and {GRPCIO}: {}",
        error.lines().last().unwrap_or_default()
    ));
    None
}

async fn install(directory: &Path) -> std::io::Result<std::process::Output> {
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--root-user-action=ignore",
    ];
    Command::new("python3")
        .args(pip)
        .arg("--target")
        .arg(directory)
        .arg(GRPCIO)
        .output()
        .await
}
