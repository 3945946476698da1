use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{Running, command, entry},
    support::TestAgent,
};

/// Federation between two agents of the command line.
mod federation;
/// The path of the control socket, and the users that may use it.
mod socket;

/// A directory for one agent, and the environment of the agent and `ctl`.
struct AgentDirectory(TempDir);

impl AgentDirectory {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = command();
        let endpoint = format!("unix://{}", self.path("a.sock").display());
        command.env("SPIFFE_ENDPOINT_SOCKET", endpoint);
        command
    }

    fn agent(&self) -> Running {
        Running::start(self.command().args(["--entry", &entry()])).0
    }

    fn ctl(&self, args: &[&str]) -> Finished {
        Finished::of(self.command().arg("ctl").args(args))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ctl(&["status", "--json"]).done()).unwrap()
    }
}

/// The status and the output of a process that has ended.
#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Finished {
    fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.stdout(Stdio::piped()).output().unwrap();
        Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    #[track_caller]
    fn done(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        self.stdout
    }

    #[track_caller]
    fn refused(self, code: i32, reason: &str) {
        assert_eq!((self.code, &*self.stdout), (Some(code), ""), "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        assert!(self.stderr.contains(reason), "{self:?}");
    }
}

#[test]
fn each_command_prints_its_effect_on_one_line() {
    let directory = AgentDirectory::new();
    let _agent = directory.agent();
    let id = "spiffe://example.org/a";
    for (args, expected) in [
        (&["rotate-x509"][..], "all X.509-SVIDs issued again\n"),
        (
            &["rotate-ca", "--lead", "10ms"],
            "new CA in use: dev-agent CA ",
        ),
        (&["drop-old-ca"], "old CAs dropped: 1\n"),
        (&["rotate-jwt", "--lead", "0s"], "new JWT key in use: "),
        (&["drop-old-jwt"], "old JWT keys dropped: 1\n"),
        (&["withdraw", id], "withdrawn: spiffe://example.org/a\n"),
        (&["restore", id], "restored: spiffe://example.org/a\n"),
        (&["stall"], "stalled\n"),
        (&["unstall"], "serving\n"),
        (
            &["restart", "--down-for", "10ms"],
            "restarted with the same keys\n",
        ),
        (&["restart", "--new-keys"], "restarted with new keys\n"),
    ] {
        let answer = directory.ctl(args).done();
        assert!(answer.starts_with(expected), "{args:?}: {answer}");
        assert_eq!(answer.lines().count(), 1, "{args:?}: {answer}");
    }
}

#[tokio::test]
async fn ctl_reads_the_bundle_of_federate_only() {
    let directory = AgentDirectory::new();
    let other = TestAgent::start(&["spiffe://b.test/y=unix:uid:{uid}"]).await;
    let bundle = directory.path("b.json");
    fs::write(&bundle, other.federation().document()).unwrap();
    let federate = format!("spiffe://b.test={}", bundle.display());
    let mut agent = directory.command();
    agent
        .args(["--entry", &entry()])
        .env("DEV_AGENT_FEDERATE", &federate);
    let (_agent, _) = Running::start(&mut agent);
    let ctl = |args: &[&str]| {
        let mut ctl = directory.command();
        ctl.env("DEV_AGENT_FEDERATE", &federate)
            .env("DEV_AGENT_ENTRY", entry());
        Finished::of(ctl.arg("ctl").args(args))
    };
    assert_eq!(directory.status()["federated"][0], "spiffe://b.test");
    let answer = ctl(&["unfederate", "spiffe://b.test"]).done();
    assert_eq!(answer, "unfederated: spiffe://b.test\n");

    let mut relative = directory.command();
    relative
        .current_dir(directory.0.path())
        .args(["ctl", "federate", "spiffe://b.test=b.json"]);
    let answer = Finished::of(&mut relative).done();
    assert_eq!(answer, "federated: spiffe://b.test\n");

    // The agent's variables are in the environment, but the file is gone.
    fs::remove_file(&bundle).unwrap();
    ctl(&["unfederate", "spiffe://b.test"]).done();
    ctl(&["federate", &federate]).refused(2, "cannot read");
    ctl(&["unfederate", "spiffe://b.test"]).refused(1, "there are no bundle");
}

#[test]
fn the_status_is_printed_as_text_and_as_json() {
    let directory = AgentDirectory::new();
    let _agent = directory.agent();
    let text = directory.ctl(&["status"]).done();
    for part in [
        "phase:         serving\n",
        "trust domain:  example.org\n",
        "a.sock\n",
        "open streams:  0\n",
        "\n  spiffe://example.org/a  ",
        " left  ",
        "  unix:uid:",
        "CAs:\n  dev-agent CA ",
        "  current  ",
        "JWT keys:\n",
        "federated:     none\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    directory
        .ctl(&["withdraw", "spiffe://example.org/a"])
        .done();
    let text = directory.ctl(&["status"]).done();
    assert!(
        text.contains("spiffe://example.org/a  withdrawn "),
        "{text}"
    );

    directory.ctl(&["rotate-jwt", "--lead", "0s"]).done();
    let status = directory.status();
    assert_eq!(status["phase"], "serving");
    let entry = &status["entries"][0];
    assert_eq!(entry["withdrawn"], true);
    assert_eq!(entry["serial"].as_str().unwrap().len(), 32);
    assert!(entry["seconds_left"].as_u64().unwrap() > 3000);
    assert!(entry["not_after"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(status["cas"][0]["use"], "current");
    assert_eq!(status["jwt_keys"][1]["use"], "old");
}

#[test]
fn a_closed_standard_output_is_not_a_failure() {
    let directory = AgentDirectory::new();
    let _agent = directory.agent();
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut ctl = directory.command();
    let ctl = ctl.args(["ctl", "status"]).stdout(write);
    let answer = ctl.output().unwrap();
    assert_eq!((answer.status.code(), &*answer.stderr), (Some(0), &b""[..]));
}

#[test]
fn concurrent_rotations_by_ctl_are_one() {
    let directory = AgentDirectory::new();
    let _agent = directory.agent();
    let rotate = || {
        let mut ctl = directory.command();
        ctl.args(["ctl", "rotate-jwt", "--lead", "5s"]);
        ctl.stdout(Stdio::piped()).spawn().unwrap()
    };
    let [one, two] = [rotate(), rotate()].map(|ctl| ctl.wait_with_output().unwrap());
    assert!(one.status.success() && two.status.success());
    assert_eq!(one.stdout, two.stdout);
    let kid = directory.status()["jwt_keys"][0]["kid"].clone();
    let answer = String::from_utf8(one.stdout).unwrap();
    assert_eq!(
        answer,
        format!("new JWT key in use: {}\n", kid.as_str().unwrap())
    );
    assert_eq!(directory.status()["jwt_keys"].as_array().unwrap().len(), 2);
}

#[test]
fn failures_exit_with_1_and_bad_commands_with_2() {
    let directory = AgentDirectory::new();
    let none = "no socket is there; start dev-agent, or name the socket of the one that runs";
    directory.ctl(&["status"]).refused(1, none);
    let _agent = directory.agent();
    directory
        .ctl(&["withdraw", "spiffe://example.org/c"])
        .refused(1, "there are spiffe://example.org/a");
    for (args, reason) in [
        (&["fly"][..], "unrecognized subcommand 'fly'"),
        (&["withdraw"], "<SPIFFE-ID>"),
        (&["withdraw", "a"], "such as spiffe://example.org/server"),
        (&["rotate-ca", "--lead", "2"], "for example 90s"),
        (&["rotate-ca", "--lead", "2h"], "it is longer than 1h"),
        (&["restart", "--down-for=-1s"], "--down-for"),
        (&["federate", "spiffe://b.test"], "there is no '='"),
        (&["unfederate", "b.test"], "is not a trust domain"),
        (&["status", "--socket", "tcp://x"], "unix:///PATH"),
    ] {
        directory.ctl(args).refused(2, reason);
    }
    let mut bad = directory.command();
    bad.env("SPIFFE_ENDPOINT_SOCKET", "a.sock");
    Finished::of(bad.args(["ctl", "status"])).refused(2, "SPIFFE_ENDPOINT_SOCKET: 'a.sock'");
    // The help is printed as an error if there is no command.
    let answer = directory.ctl(&[]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("Usage: dev-agent ctl"), "{answer:?}");
}

#[test]
fn the_help_lists_every_command_and_the_exit_status() {
    let help = |args: &[&str]| Finished::of(command().args(args)).done();
    assert!(help(&["--help"]).contains("dev-agent ctl status"));
    assert!(help(&["--help"]).contains("--control-socket"));
    for args in [&["ctl", "--help"][..], &["help", "ctl"]] {
        let text = help(args);
        for command in [
            "status",
            "bundle",
            "rotate-x509",
            "rotate-ca",
            "drop-old-ca",
            "rotate-jwt",
            "drop-old-jwt",
            "withdraw",
            "restore",
            "stall",
            "unstall",
            "restart",
            "federate",
            "federate-with",
            "refresh",
            "endpoint",
            "unfederate",
        ] {
            assert!(
                text.contains(&format!("\n  {command} ")),
                "{command}: {text}"
            );
            assert!(help(&["ctl", command, "--help"]).contains("--socket"));
        }
        assert!(text.contains("Exit status: 0"), "{text}");
    }
}
