use std::{path::PathBuf, time::Duration};

use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, binary,
    process::{self, Process},
};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const KILLS: u32 = 100;
const SEED: u64 = 6;

/// Holds the processes of one machine, always on the same socket and ports.
struct Machine {
    directory: TempDir,
    server: u16,
    proxy: u16,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Agent,
    Server,
    Proxy,
}

const ROLES: [Role; 3] = [Role::Agent, Role::Server, Role::Proxy];

impl Machine {
    fn new() -> Self {
        let [server, proxy] = process::free_ports();
        Self {
            directory: tempfile::tempdir().unwrap(),
            server,
            proxy,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn start(&self, role: Role) -> Process {
        let endpoint = format!("unix://{}", self.socket().display());
        let spawn = |name, args: &[String]| process::spawn(name, &endpoint, args);
        let listen = |port| format!("--listen=127.0.0.1:{port}");
        let entry = |id, name| {
            let path = binary(name);
            format!("--entry={id}=unix:path:{};dns=localhost", path.display())
        };
        match role {
            Role::Agent => spawn(
                "dev-agent",
                &[
                    format!("--socket={}", self.socket().display()),
                    entry(SERVER_ID, "server"),
                    entry(SERVER_ID, "proxy"),
                    entry(CLIENT_ID, "client"),
                ],
            ),
            Role::Server => spawn("server", &[listen(self.server)]),
            Role::Proxy => {
                let upstream = format!("--upstream=https://localhost:{}", self.server);
                spawn("proxy", &[listen(self.proxy), upstream])
            }
        }
    }

    /// Waits until a run of the client succeeds.
    async fn works(&self) {
        let endpoint = format!("unix://{}", self.socket().display());
        let url = format!("https://localhost:{}/", self.proxy);
        let working = async {
            loop {
                let output = process::output("client", &endpoint, &["--url", &url]).await;
                if output.status.success() {
                    return;
                }
            }
        };
        timeout(PATIENCE, working)
            .await
            .expect("the client succeeds in time");
    }
}

/// Returns the same numbers in each run (xorshift64), so that kills come at similar points.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test]
async fn after_a_kill_at_any_point_the_next_start_works() {
    let machine = Machine::new();
    let mut random = Random(SEED);
    let mut running = ROLES.map(|role| machine.start(role));
    machine.works().await;
    for kill in 1..=KILLS {
        let victim = random.below(3) as usize;
        // A start takes some 40 ms, so that the kill comes during the start or after it.
        sleep(Duration::from_millis(random.below(60))).await;
        running[victim].signal(Signal::SIGKILL);
        assert_eq!(running[victim].ended().await.code(), None);
        running[victim] = machine.start(ROLES[victim]);
        if random.below(2) == 0 {
            let ready = match ROLES[victim] {
                Role::Agent => "listening on unix://",
                Role::Server | Role::Proxy => "listening on 127.0.0.1:",
            };
            running[victim].logged(ready).await;
        }
        if kill % 20 == 0 {
            machine.works().await;
        }
    }
}
