use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Running, command, entry};
use crate::support::TestAgent;

/// Where the control socket is, and who may use it.
mod socket;

/// A directory for one agent, and the environment in which it and `ctl` run.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
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

    fn ctl(&self, args: &[&str]) -> Answer {
        Answer::of(self.command().arg("ctl").args(args))
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ctl(&["status", "--json"]).done()).unwrap()
    }
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
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
fn each_lever_says_on_one_line_what_it_did() {
    let place = Place::new();
    let _agent = place.agent();
    let id = "spiffe://example.org/a";
    for (args, expected) in [
        (&["rotate-x509"][..], "all X.509-SVIDs issued anew\n"),
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
        let answer = place.ctl(args).done();
        assert!(answer.starts_with(expected), "{args:?}: {answer}");
        assert_eq!(answer.lines().count(), 1, "{args:?}: {answer}");
    }
}

#[tokio::test]
async fn a_bundle_is_read_by_ctl_and_its_path_is_of_no_use_to_others() {
    let place = Place::new();
    let other = TestAgent::start(&["spiffe://b.test/y=unix:uid:{uid}"]).await;
    let bundle = place.path("b.json");
    fs::write(&bundle, other.federation().document()).unwrap();
    let federate = format!("spiffe://b.test={}", bundle.display());
    let mut agent = place.command();
    agent
        .args(["--entry", &entry()])
        .env("DEV_AGENT_FEDERATE", &federate);
    let (_agent, _) = Running::start(&mut agent);
    let ctl = |args: &[&str]| {
        let mut ctl = place.command();
        ctl.env("DEV_AGENT_FEDERATE", &federate)
            .env("DEV_AGENT_ENTRY", entry());
        Answer::of(ctl.arg("ctl").args(args))
    };
    assert_eq!(place.status()["federated"][0], "spiffe://b.test");
    let answer = ctl(&["unfederate", "spiffe://b.test"]).done();
    assert_eq!(answer, "federated no more: spiffe://b.test\n");

    let mut relative = place.command();
    relative.current_dir(place.directory.path()).args([
        "ctl",
        "federate",
        "spiffe://b.test=b.json",
    ]);
    let answer = Answer::of(&mut relative).done();
    assert_eq!(answer, "federated: spiffe://b.test\n");

    // What the agent was started with is in the environment, and its file is gone.
    fs::remove_file(&bundle).unwrap();
    ctl(&["unfederate", "spiffe://b.test"]).done();
    ctl(&["federate", &federate]).refused(2, "cannot read");
    ctl(&["unfederate", "spiffe://b.test"]).refused(1, "there are no bundle");
}

#[test]
fn the_status_is_for_people_and_for_machines() {
    let place = Place::new();
    let _agent = place.agent();
    let text = place.ctl(&["status"]).done();
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
    place.ctl(&["withdraw", "spiffe://example.org/a"]).done();
    let text = place.ctl(&["status"]).done();
    assert!(
        text.contains("spiffe://example.org/a  withdrawn "),
        "{text}"
    );

    place.ctl(&["rotate-jwt", "--lead", "0s"]).done();
    let status = place.status();
    assert_eq!(status["phase"], "serving");
    let entry = &status["entries"][0];
    assert_eq!(entry["withdrawn"], true);
    assert_eq!(entry["serial"].as_str().unwrap().len(), 32);
    assert!(entry["seconds_left"].as_u64().unwrap() > 3000);
    assert!(entry["not_after"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(status["cas"][0]["use"], "current");
    assert_eq!(status["jwt_keys"][1]["use"], "old");
}

/// An agent that is started as it always was must not fail for its control socket's name.
#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let place = Place::new();
    let _agent = place.agent();
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut ctl = place.command();
    let ctl = ctl.args(["ctl", "status"]).stdout(write);
    let answer = ctl.output().unwrap();
    assert_eq!((answer.status.code(), &*answer.stderr), (Some(0), &b""[..]));
}

#[test]
fn two_rotations_at_once_are_one() {
    let place = Place::new();
    let _agent = place.agent();
    let rotate = || {
        let mut ctl = place.command();
        ctl.args(["ctl", "rotate-jwt", "--lead", "2s"]);
        ctl.stdout(Stdio::piped()).spawn().unwrap()
    };
    let [one, two] = [rotate(), rotate()].map(|ctl| ctl.wait_with_output().unwrap());
    assert!(one.status.success() && two.status.success());
    assert_eq!(one.stdout, two.stdout);
    let kid = place.status()["jwt_keys"][0]["kid"].clone();
    let answer = String::from_utf8(one.stdout).unwrap();
    assert_eq!(
        answer,
        format!("new JWT key in use: {}\n", kid.as_str().unwrap())
    );
    assert_eq!(place.status()["jwt_keys"].as_array().unwrap().len(), 2);
}

#[test]
fn failures_and_bad_commands_have_codes_of_their_own() {
    let place = Place::new();
    let none = "no socket is there; start dev-agent, or name the socket of the one that runs";
    place.ctl(&["status"]).refused(1, none);
    let _agent = place.agent();
    place
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
        place.ctl(args).refused(2, reason);
    }
    let mut bad = place.command();
    bad.env("SPIFFE_ENDPOINT_SOCKET", "a.sock");
    Answer::of(bad.args(["ctl", "status"])).refused(2, "SPIFFE_ENDPOINT_SOCKET: 'a.sock'");
    // No command at all: the help, as an error.
    let answer = place.ctl(&[]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.stderr.contains("Usage: dev-agent ctl"), "{answer:?}");
}

#[test]
fn the_help_has_every_lever_and_says_what_comes_of_it() {
    let help = |args: &[&str]| Answer::of(command().args(args)).done();
    assert!(help(&["--help"]).contains("dev-agent ctl status"));
    assert!(help(&["--help"]).contains("--control-socket"));
    for args in [&["ctl", "--help"][..], &["help", "ctl"]] {
        let text = help(args);
        for lever in [
            "status",
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
            "unfederate",
        ] {
            assert!(text.contains(&format!("\n  {lever} ")), "{lever}: {text}");
            assert!(help(&["ctl", lever, "--help"]).contains("--socket"));
        }
        assert!(text.contains("Exit status: 0"), "{text}");
    }
}
