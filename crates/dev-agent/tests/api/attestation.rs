use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use dev_agent::pb;
use nix::unistd::{Gid, Uid};
use prost::Message;
use tempfile::TempDir;
use tonic::Code;

use crate::{
    support::{TestAgent, another_user, install, skip},
    wire::{Messages, Wire},
};

const ENDPOINT: &str = "DEV_AGENT_TEST_ENDPOINT";
const MODE: &str = "DEV_AGENT_TEST_MODE";
const OTHER: &str = "DEV_AGENT_TEST_OTHER";
const PARENT: &str = "DEV_AGENT_TEST_PARENT";
const ARGS: [&str; 4] = ["attestation::caller", "--exact", "--ignored", "--nocapture"];
const ANSWER: &str = "answer: ";

/// The caller that the tests below run as another process, in one of its [`MODE`]s.
#[tokio::test]
#[ignore = "the other tests run it, in processes of their own"]
async fn caller() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else {
        return;
    };
    match std::env::var(MODE).as_deref() {
        Ok("given") => call_on_given().await,
        Ok("give") => pass_on(&connection(&endpoint), false),
        Ok("exec") => pass_on(&connection(&endpoint), true),
        Ok("groups") => {
            nix::unistd::setgroups(&[Gid::from_raw(27)]).unwrap();
            call(connection(&endpoint)).await;
        }
        Ok("setuid") => {
            let stream = connection(&endpoint);
            nix::unistd::setuid(Uid::from_raw(1)).unwrap();
            call(stream).await;
        }
        _ => call(connection(&endpoint)).await,
    }
}

/// Waits for a line of input, makes a call, and prints the answer.
async fn call(stream: UnixStream) {
    println!("{ANSWER}connected");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    println!("{ANSWER}{}", fetch(&mut wire(stream).await).await.1);
}

/// Passes the connection to another binary: to a child, or by exec.
#[expect(
    clippy::zombie_processes,
    reason = "the child is to outlive this process"
)]
fn pass_on(stream: &UnixStream, exec: bool) {
    let mut other = Command::new(std::env::var(OTHER).unwrap());
    other
        .args(ARGS)
        .env(MODE, "given")
        .env(PARENT, std::process::id().to_string())
        .stdin(OwnedFd::from(stream.try_clone().unwrap()));
    if exec {
        panic!("{}", other.exec());
    }
    other.spawn().unwrap();
    // The process lives until its own input ends.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Calls on a connection that another process made, until its messages end.
async fn call_on_given() {
    let stream = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut wire = wire(stream.into()).await;
    let (messages, answer) = fetch(&mut wire).await;
    println!("{ANSWER}{answer}");
    if std::env::var(PARENT).unwrap() == std::process::id().to_string() {
        return;
    }
    let mut messages = messages.unwrap();
    let (_, message) = messages.next().await.unwrap_err();
    println!("{ANSWER}stream: {message}");
    println!("{ANSWER}call: {}", fetch(&mut wire).await.1);
}

fn connection(endpoint: &str) -> UnixStream {
    UnixStream::connect(endpoint.strip_prefix("unix://").unwrap()).unwrap()
}

async fn wire(stream: UnixStream) -> Wire {
    stream.set_nonblocking(true).unwrap();
    Wire::over(tokio::net::UnixStream::from_std(stream).unwrap()).await
}

/// Calls FetchX509SVID. Returns its stream, and its first IDs or the status.
async fn fetch(wire: &mut Wire) -> (Option<Messages>, String) {
    let mut messages = match wire.call("FetchX509SVID", &[]).await {
        Ok(messages) => messages,
        Err((code, message)) => {
            return (
                None,
                format!("{:?}: {message}", Code::from(code.cast_signed())),
            );
        }
    };
    let message = messages.next().await.unwrap();
    let message = pb::X509svidResponse::decode(&message[..]).unwrap();
    let ids: Vec<_> = message
        .svids
        .into_iter()
        .map(|svid| svid.spiffe_id)
        .collect();
    (Some(messages), ids.join(" "))
}

/// A directory for binaries and a socket that other users can enter.
struct BinaryDirectory(TempDir);

impl BinaryDirectory {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    /// Returns the path of a file as the kernel spells it.
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// Copies this test program to a file of that name.
    fn binary(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        install(&std::env::current_exe().unwrap(), &path);
        path
    }
}

fn command(binary: &Path, agent: &TestAgent) -> Command {
    let mut command = Command::new(binary);
    command
        .args(ARGS)
        .env(ENDPOINT, agent.endpoint())
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Runs a caller to its end and returns its last answer.
async fn answer(mut command: Command) -> String {
    // Waits on another thread, because the agent runs on this one.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = String::from_utf8(output.await.unwrap().stdout).unwrap();
    let (_, answer) = output.rsplit_once(ANSWER).expect("no answer");
    answer.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn one_user_has_as_many_identities_as_binaries_w046() {
    let directory = BinaryDirectory::new();
    let (server, proxy) = (directory.binary("server"), directory.binary("proxy"));
    let entries = [&server, &proxy].map(|path| {
        let name = path.file_name().unwrap().display();
        format!("spiffe://example.org/{name}=unix:path:{}", path.display())
    });
    let agent = TestAgent::start(&[&entries[0], &entries[1]]).await;
    assert_eq!(
        answer(command(&server, &agent)).await,
        "spiffe://example.org/server"
    );
    assert_eq!(
        answer(command(&proxy, &agent)).await,
        "spiffe://example.org/proxy"
    );
    let itself = std::env::current_exe().unwrap();
    assert_eq!(
        answer(command(&itself, &agent)).await,
        "PermissionDenied: no identity issued"
    );
}

/// A caller that runs while the test reads its answers.
struct Caller {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Caller {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, output }
    }

    /// Returns the next answer. Waits on another thread, because the agent runs on this one.
    async fn answer(mut self) -> (Self, String) {
        let answer = tokio::task::spawn_blocking(move || {
            let mut lines = self.output.by_ref().map(Result::unwrap);
            let answer = lines.find_map(|line| Some(line.split_once(ANSWER)?.1.to_owned()));
            (self, answer.expect("no answer"))
        });
        answer.await.unwrap()
    }

    fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }
}

#[tokio::test]
async fn a_binary_that_was_replaced_has_no_identity_w047() {
    let directory = BinaryDirectory::new();
    let server = directory.binary("server");
    let entry = format!("spiffe://example.org/a=unix:path:{}", server.display());
    let agent = TestAgent::start(&[&entry]).await;
    let (mut child, _connected) = Caller::start(command(&server, &agent)).answer().await;
    fs::rename(directory.binary("next"), &server).unwrap();
    child.end_input();
    let (mut child, answer) = child.answer().await;
    assert_eq!(
        answer, "PermissionDenied: no identity issued",
        "W35: attested at the call"
    );
    child.child.wait().unwrap();
}

/// A process passes its connection to its child. The child is attested as the parent (W40, a limit
/// of SO_PEERCRED) for as long as the parent lives.
#[tokio::test]
async fn a_connection_is_refused_after_the_process_that_made_it_has_ended_w036() {
    let directory = BinaryDirectory::new();
    let (parent, child) = (directory.binary("parent"), directory.binary("child"));
    let entry = format!("spiffe://example.org/parent=unix:path:{}", parent.display());
    let agent = TestAgent::start(&[&entry]).await;
    let mut command = command(&parent, &agent);
    command.env(MODE, "give").env(OTHER, child);
    let (mut parent, answer) = Caller::start(command).answer().await;
    assert_eq!(answer, "spiffe://example.org/parent", "W40");

    parent.end_input();
    parent.child.wait().unwrap();
    agent.rotate_x509();
    let (parent, answer) = parent.answer().await;
    assert_eq!(answer, "stream: workload attestation failed", "W74, S4");
    let (_, answer) = parent.answer().await;
    assert_eq!(
        answer, "call: Unavailable: workload attestation failed",
        "W38, W27"
    );
}

#[tokio::test]
async fn a_process_that_executes_another_binary_is_attested_as_that_binary_w041() {
    let directory = BinaryDirectory::new();
    let (before, after) = (directory.binary("before"), directory.binary("after"));
    let entries = [&before, &after].map(|path| {
        let name = path.file_name().unwrap().display();
        format!("spiffe://example.org/{name}=unix:path:{}", path.display())
    });
    let agent = TestAgent::start(&[&entries[0], &entries[1]]).await;
    let mut command = command(&before, &agent);
    command.env(MODE, "exec").env(OTHER, after);
    assert_eq!(answer(command).await, "spiffe://example.org/after");
}

#[tokio::test]
async fn names_and_variables_of_a_caller_do_not_change_its_attestation_w063() {
    let directory = BinaryDirectory::new();
    let (server, other) = (directory.binary("server"), directory.binary("other"));
    let entry = format!("spiffe://example.org/server=unix:path:{}", server.display());
    let agent = TestAgent::start(&[&entry]).await;
    let mut command = command(&other, &agent);
    command
        .arg0(&server)
        .env("_", &server)
        .env("USER", "root")
        .env("WORKLOAD_SPIFFE_ID", "spiffe://example.org/server");
    assert_eq!(
        answer(command).await,
        "PermissionDenied: no identity issued"
    );
}

#[tokio::test]
async fn a_change_of_user_is_refused_and_only_the_primary_group_counts_w039() {
    if !Uid::effective().is_root() {
        skip("changing rights after connecting needs root");
        return;
    }
    let agent = TestAgent::start(&[
        "spiffe://example.org/root=unix:uid:0",
        "spiffe://example.org/sudo=unix:gid:27",
    ])
    .await;
    for (number, mode, expected) in [
        ("W39", "setuid", "Unavailable: workload attestation failed"),
        ("W45", "groups", "spiffe://example.org/root"),
    ] {
        let mut command = command(&std::env::current_exe().unwrap(), &agent);
        command.env(MODE, mode);
        assert_eq!(answer(command).await, expected, "{number}");
    }
}

#[tokio::test]
async fn another_user_is_attested_by_its_numbers_and_names_w042() {
    let Some(user) = another_user() else {
        return;
    };
    let directory = BinaryDirectory::new();
    let binary = directory.binary("caller");
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let entries = [
        format!("spiffe://example.org/uid=unix:uid:{uid}"),
        format!("spiffe://example.org/gid=unix:gid:{gid}"),
        "spiffe://example.org/user=unix:user:daemon".to_owned(),
        "spiffe://example.org/group=unix:group:daemon".to_owned(),
        format!(
            "spiffe://example.org/path=unix:uid:{uid},unix:path:{}",
            binary.display()
        ),
        "spiffe://example.org/root=unix:uid:0".to_owned(),
    ];
    let entries: Vec<_> = entries.iter().map(String::as_str).collect();
    let agent =
        TestAgent::start_with(&entries, |config| config.socket = directory.path("a.sock")).await;

    let mut daemon = command(&binary, &agent);
    daemon.uid(uid).gid(gid);
    let all =
        ["uid", "gid", "user", "group", "path"].map(|name| format!("spiffe://example.org/{name}"));
    assert_eq!(answer(daemon).await, all.join(" "), "W43, W44, W54");

    // "W44": a user without a name lacks only the selectors that need the name.
    let mut nameless = command(&binary, &agent);
    nameless.uid(4_000_000_001).gid(gid);
    assert_eq!(
        answer(nameless).await,
        "spiffe://example.org/gid spiffe://example.org/group"
    );

    let mut unmapped = command(&binary, &agent);
    unmapped.uid(65534).gid(gid);
    assert_eq!(
        answer(unmapped).await,
        "Unavailable: workload attestation failed",
        "W61"
    );

    assert_eq!(
        answer(command(&binary, &agent)).await,
        "spiffe://example.org/root"
    );
}
