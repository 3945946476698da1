use std::{
    fs::{self, Permissions},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use dev_agent::Config;
use harness::{
    CLIENT_ID, SERVER_ID, Stack, binary,
    process::{self, Process},
    wait,
};
use nix::sys::{signal::Signal, stat::Mode};
use spiffe::{JwtSvid, SpiffeId};
use tempfile::TempDir;

const AUDIENCE: &str = "spiffe://example.org/orders";

/// Holds a client that keeps a token in a file.
struct Keeping {
    client: Process,
    directory: TempDir,
}

impl Keeping {
    fn new(stack: &Stack, args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            client: spawn(stack, &directory.path().join("token"), args),
            directory,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// Waits for a file with another text than `old`, and returns its text.
    async fn other(&self, old: &str) -> String {
        let path = self.path();
        let read = async || fs::read_to_string(&path).ok().filter(|text| text != old);
        wait::until_some(read).await
    }

    async fn gone(&self) {
        wait::until(async || !self.path().exists()).await;
    }
}

/// Starts a client that has no file creation mask, so that its files have the mode that it asks for.
fn spawn(stack: &Stack, path: &Path, args: &[&str]) -> Process {
    let path = path.to_str().unwrap();
    let args = [&[AUDIENCE, "--token-file", path], args].concat();
    let script = r#"umask 0; exec "$0" "$@""#;
    let endpoint = stack.agent.endpoint();
    let mut command = process::in_shell(script, &binary("client"), &endpoint, &args);
    command.env("PATH", "/usr/bin:/bin");
    Process::spawn(command)
}

/// Returns an agent whose tokens live for `seconds`.
async fn issuing_for(seconds: u64) -> Stack {
    let ttl = Duration::from_secs(seconds);
    Stack::with(SERVER_ID, |config: &mut Config| config.jwt_ttl = ttl).await
}

#[tokio::test]
async fn a_reader_always_finds_a_whole_current_token_of_its_own_u015() {
    let stack = issuing_for(4).await;
    let keeping = Keeping::new(&stack, &[]);
    let (mut seen, path) = (vec![keeping.other("").await], keeping.path());
    let until = async || {
        let now = SystemTime::now();
        let mut file = fs::File::open(&path).expect("the file is always there");
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let token = JwtSvid::parse_insecure(&text).expect("a whole token");
        assert!(SystemTime::from(token.expiry()) > now);
        assert_eq!(token.audience(), [AUDIENCE]);
        assert_eq!(token.spiffe_id().to_string(), CLIENT_ID);
        for entry in fs::read_dir(keeping.directory.path()).unwrap() {
            // The file of the next token may have been renamed by now.
            if let Ok(metadata) = entry.unwrap().metadata() {
                assert_eq!(metadata.mode() & 0o7777, 0o600);
            }
        }
        if seen.last() != Some(&text) {
            seen.push(text);
        }
        seen.len() >= 4
    };
    wait::until(until).await;
}

#[tokio::test]
async fn the_file_is_removed_with_its_token_and_comes_back_with_another_u015() {
    let stack = issuing_for(300).await;
    let keeping = Keeping::new(&stack, &[]);
    let mut token = keeping.other("").await;
    keeping.client.logged("wrote a new JWT-SVID to").await;
    let id = SpiffeId::new(CLIENT_ID).unwrap();
    for round in 1..=2 {
        stack.agent.withdraw(&id);
        keeping.gone().await;
        let removing = "because no other JWT-SVID is issued: no identity";
        keeping.client.logged_times(removing, round).await;
        stack.agent.restore(&id);
        token = keeping.other(&token).await;
    }
    // The new agent has other keys, and nobody would accept the token.
    stack.agent.restart_with_new_keys().await.unwrap();
    keeping.other(&token).await;
    let log = keeping.client.log().join("\n");
    assert!(!log.contains(&token), "{log}");
}

#[tokio::test]
async fn the_file_is_removed_before_its_token_expires_and_the_agent_is_away_u015() {
    let stack = issuing_for(6).await;
    let keeping = Keeping::new(&stack, &[]);
    keeping.other("").await;
    stack.agent.stop().await;
    let mut last = String::new();
    let read = || {
        let now = SystemTime::now();
        Some((now, fs::read_to_string(keeping.path()).ok()?))
    };
    while let Some((now, text)) = read() {
        if !text.is_empty() {
            let token = JwtSvid::parse_insecure(&text).unwrap();
            assert!(SystemTime::from(token.expiry()) > now);
            last = text;
        }
        tokio::task::yield_now().await;
    }
    keeping.client.logged("removed ").await;
    stack.agent.restart().await.unwrap();
    keeping.other(&last).await;
}

#[tokio::test]
async fn a_stop_leaves_the_file_and_a_start_removes_only_an_expired_one_u015() {
    let stack = issuing_for(300).await;
    let mut keeping = Keeping::new(&stack, &[]);
    let first = keeping.other("").await;
    keeping.client.signal(Signal::SIGTERM);
    assert!(keeping.client.ended().await.success());
    assert_eq!(fs::read_to_string(keeping.path()).unwrap(), first);

    // While the next process waits for its identity, applications can use the token.
    stack.agent.stop().await;
    let path = keeping.path();
    let short = ["--startup-timeout", "100ms"];
    let mut next = spawn(&stack, &path, &short);
    assert_eq!(next.ended().await.code(), Some(1));
    next.logged("no identity from the Workload API").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), first);

    let expired = stack.token(|claims| claims.payload["exp"] = 1_000_000_000.into());
    fs::write(&path, expired).unwrap();
    let mut next = spawn(&stack, &path, &short);
    next.ended().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_program_runs_after_each_new_token_u016() {
    let stack = issuing_for(2).await;
    let directory = tempfile::tempdir().unwrap();
    let [program, runs] = ["program", "runs"].map(|name| directory.path().join(name));
    // The program ends with the test, which removes the directory.
    let script = "#!/bin/sh\necho \"$1\" >>\"$2\"\ntest ! -e \"$2.fails\" || exit 7\n\
                  while test -e \"$2.hangs\"; do sleep 0.05; done\n";
    let source = directory.path().join("source");
    fs::write(&source, script).unwrap();
    process::install(&source, &program);
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let command = format!("{} $HOME {}", program.display(), runs.display());
    let args = [
        "--token-command",
        &command,
        "--token-command-timeout",
        "200ms",
    ];
    let keeping = Keeping::new(&stack, &args);
    let lines = || {
        fs::read_to_string(&runs)
            .unwrap_or_default()
            .lines()
            .count()
    };
    wait::until(async || lines() >= 2).await;
    // There is no shell that could replace $HOME.
    let text = fs::read_to_string(&runs).unwrap();
    assert!(text.lines().all(|line| line == "$HOME"), "{text}");
    fs::write(runs.with_extension("fails"), "").unwrap();
    keeping.client.logged("it ended with exit status: 7").await;
    fs::remove_file(runs.with_extension("fails")).unwrap();
    fs::write(runs.with_extension("hangs"), "").unwrap();
    keeping
        .client
        .logged("killed, because it was not done")
        .await;
    let before = lines();
    wait::until(async || lines() > before).await;
}

#[tokio::test]
async fn a_signal_follows_each_new_token_u016() {
    let stack = issuing_for(2).await;
    let directory = tempfile::tempdir().unwrap();
    let pid_file = directory.path().join("pid");
    let args = [
        "--token-signal",
        "usr1",
        "--token-pid-file",
        pid_file.to_str().unwrap(),
    ];
    let keeping = Keeping::new(&stack, &args);
    keeping
        .client
        .logged("cannot read --token-pid-file: No such file")
        .await;
    let script = "trap 'echo got it >&2' USR1; echo ready >&2; while :; do sleep 0.05; done";
    let mut application = process::command("/bin/sh".as_ref(), "", &["-c", script]);
    application.env("PATH", "/usr/bin:/bin");
    let application = Process::spawn(application);
    application.logged("ready").await;
    fs::write(&pid_file, format!("{}\n", application.pid())).unwrap();
    application.logged_times("got it", 2).await;
    fs::write(&pid_file, "-1").unwrap();
    keeping
        .client
        .logged("does not have the ID of a process")
        .await;
}

#[tokio::test]
async fn a_pid_file_that_is_never_read_to_its_end_delays_no_token_and_no_stop_u016() {
    let stack = issuing_for(2).await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pid");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let pipe = pipe.to_str().unwrap();
    let args = ["--token-signal", "usr1", "--token-pid-file"];
    let mut keeping = Keeping::new(&stack, &[&args as &[&str], &[pipe]].concat());
    let mut token = String::new();
    for _ in 0..3 {
        token = keeping.other(&token).await;
    }
    keeping.client.logged("it must be a regular file").await;
    keeping.client.signal(Signal::SIGTERM);
    assert!(keeping.client.ended().await.success());

    // A file without end has no ID at its beginning.
    let args = [&args as &[&str], &["/dev/zero"]].concat();
    let keeping = Keeping::new(&stack, &args);
    let said = "does not have the ID of a process";
    keeping.client.logged(said).await;
}

#[tokio::test]
async fn a_file_or_a_program_that_cannot_be_used_ends_the_start_u016() {
    let stack = Stack::new().await;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), Permissions::from_mode(0o777)).unwrap();
    fs::write(at("other"), "precious").unwrap();
    symlink(at("other"), at("link")).unwrap();
    for (status, path, args, said) in [
        (
            1,
            at("missing/token"),
            &[] as &[&str],
            "the directory must exist",
        ),
        (
            1,
            at("open/token"),
            &[],
            "other users may write to its directory",
        ),
        (
            1,
            at("open"),
            &[],
            "there is a directory, not a file; remove it",
        ),
        (1, at("link"), &[], "there is a symbolic link, not a file"),
        (
            1,
            at("other"),
            &[],
            "something other than a JWT-SVID; remove it",
        ),
        (
            1,
            at("token"),
            &["--token-command", "/no/such/program x"],
            "--token-command /no/such/program: there is no such program",
        ),
        (
            2,
            at("token"),
            &["--listen", "127.0.0.1:0"],
            "cannot be used with",
        ),
        (
            2,
            at("token"),
            &["--url", "https://a"],
            "cannot be used with",
        ),
        (
            2,
            at("token"),
            &["--token-signal", "9"],
            "expected for example HUP",
        ),
        (
            2,
            at("token"),
            &["--token-signal", "HUP"],
            "--token-pid-file <FILE>",
        ),
    ] {
        let args = [&["--token-file", &path], args].concat();
        let output = process::output("client", &stack.agent.endpoint(), &args).await;
        assert_eq!(output.status.code(), Some(status), "{args:?} {output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(said), "{args:?}: {errors}");
        assert!(status == 2 || errors.lines().count() == 1, "{errors}");
    }
    assert_eq!(fs::read_to_string(at("other")).unwrap(), "precious");
    assert!(!Path::new(&at("token")).exists());
}

#[tokio::test]
async fn a_client_that_keeps_a_token_uses_no_cpu_between_renewals_u015() {
    let stack = issuing_for(300).await;
    let keeping = Keeping::new(&stack, &[]);
    keeping.other("").await;
    keeping.client.logged("wrote a new").await;
    let used = async || {
        let before = keeping.client.cpu_time();
        tokio::time::sleep(Duration::from_secs(5)).await;
        keeping.client.cpu_time() - before
    };
    // The start may end in the first span. One step of the kernel's clock is 0.2 % of a span.
    let spans = [used().await, used().await];
    assert!(
        spans.iter().min() <= Some(&Duration::from_millis(10)),
        "{spans:?}"
    );
}
