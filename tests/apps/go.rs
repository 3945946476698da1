//! Runs the program in `go/`, a server and a client of net/http and grpc-go.

use std::{process::Output, time::Duration};

use harness::{
    installed::go_program,
    process::{self, Process},
};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::app::Chain;

/// The time that the program may take.
const RUNNING: Duration = Duration::from_secs(60);

/// The program, in a directory of its own.
struct Program(TempDir);

impl Program {
    /// Builds the program. Skips the test if there is no Go.
    async fn new() -> Option<Self> {
        go_program("apps/go").await.map(Self)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = process::command(&self.0.path().join("program"), "", args);
        command.env_remove("SPIFFE_ENDPOINT_SOCKET");
        command
    }

    /// Calls the server of one kind by the client, through client, proxy and server of ours.
    async fn run(&self, kind: &str, scheme: &str) -> Output {
        let server = Process::spawn(self.command(&[&format!("{kind}-server")]));
        let chain = Chain::before(server, scheme).await;
        let address = format!("127.0.0.1:{}", chain.port);
        let mut client = self.command(&[&format!("{kind}-client"), &address]);
        timeout(RUNNING, client.output())
            .await
            .expect("ends in time")
            .unwrap()
    }
}

#[tokio::test]
async fn calls_of_grpc_go_cross_client_proxy_and_server_h003_h004() {
    let Some(program) = Program::new().await else {
        return;
    };
    let output = program.run("grpc", "h2c").await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn events_and_trailers_of_net_http_cross_client_proxy_and_server_p062_p126_h008() {
    let Some(program) = Program::new().await else {
        return;
    };
    let output = program.run("http", "http").await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
