use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use super::{AgentDirectory, Finished};
use crate::{
    process::{Running, command, entry},
    support::{another_user, install},
};

#[test]
fn agent_and_ctl_use_the_same_control_socket() {
    let directory = AgentDirectory::new();
    let (socket, control) = (directory.path("a.sock"), directory.path("elsewhere.sock"));
    let agent = |args: &[&str]| {
        let mut agent = command();
        agent.args(["--entry", &entry()]).args(args);
        Running::start(agent.arg("--socket").arg(&socket)).0
    };
    let ctl = |args: &[&str]| Finished::of(command().arg("ctl").args(args));
    let (socket_path, control_path) = (socket.to_str().unwrap(), control.to_str().unwrap());
    let endpoint = format!("unix://{socket_path}");

    let running = agent(&[]);
    ctl(&["--socket", socket_path, "status"]).done();
    ctl(&["status", "--socket", &endpoint]).done();
    Finished::of(
        command()
            .env("DEV_AGENT_SOCKET", &socket)
            .args(["ctl", "status"]),
    )
    .done();
    running.stop("-TERM");
    assert_eq!(fs::read_dir(directory.0.path()).unwrap().count(), 0);

    let running = agent(&["--control-socket", control_path]);
    ctl(&["status", "--control-socket", control_path]).done();
    let mut named = command();
    named.env("DEV_AGENT_CONTROL_SOCKET", &control);
    Finished::of(named.args(["ctl", "status"])).done();
    ctl(&["status", "--socket", socket_path]).refused(1, "no socket is there; start dev-agent");
    running.stop("-INT");
    assert_eq!(fs::read_dir(directory.0.path()).unwrap().count(), 0);

    let running = agent(&["--control-socket", "none"]);
    assert_eq!(fs::read_dir(directory.0.path()).unwrap().count(), 1);
    ctl(&["status", "--control-socket", "none"]).refused(2, "cannot be controlled");
    running.stop("-TERM");
}

#[test]
fn an_agent_whose_control_path_is_too_long_starts_without_it() {
    let directory = AgentDirectory::new();
    let mut name = "a".repeat(105 - directory.path("").as_os_str().len());
    let mut start = |args: &[&str]| {
        let mut agent = command();
        agent.args(["--entry", &entry()]).args(args);
        let (running, lines) = Running::start(agent.arg("--socket").arg(directory.path(&name)));
        name.truncate(name.len() - 2);
        running.stop("-TERM");
        lines
    };
    let lines = start(&[]);
    assert!(lines[0].contains("no control socket"), "{lines:?}");
    let lines = start(&[]);
    assert!(!lines[0].contains("no control socket"), "{lines:?}");
}

#[test]
fn sockets_that_a_killed_agent_left_behind_are_replaced() {
    let directory = AgentDirectory::new();
    drop(directory.agent());
    let control = directory.path("a.sock.ctl");
    assert!(control.exists(), "it could not clean up");
    let reason = format!(
        "cannot control an agent by {}: no agent listens there any more; start dev-agent again",
        control.display()
    );
    directory.ctl(&["status"]).refused(1, &reason);
    let _agent = directory.agent();
    directory.ctl(&["status"]).done();
}

#[test]
fn a_second_agent_on_the_same_socket_is_refused_even_while_the_first_is_down() {
    let directory = AgentDirectory::new();
    let _agent = directory.agent();
    let second = |directory: &AgentDirectory| {
        let answer = Finished::of(directory.command().args(["--entry", &entry()]));
        assert_eq!(answer.code, Some(1));
        assert!(
            answer.stderr.contains("another agent is listening"),
            "{answer:?}"
        );
    };
    second(&directory);
    let mut down = directory.command();
    let mut down = down
        .args(["ctl", "restart", "--down-for", "1h"])
        .spawn()
        .unwrap();
    while directory.status()["phase"] != "stopped" {}
    second(&directory);
    down.kill().unwrap();
    down.wait().unwrap();
    assert_eq!(
        directory.status()["phase"],
        "stopped",
        "the command continues without its caller"
    );
}

/// Returns a command that runs a copy of the binary as another user.
fn foreign(directory: &AgentDirectory, uid: u32) -> Command {
    let binary = directory.path("dev-agent");
    if !binary.exists() {
        install(Path::new(env!("CARGO_BIN_EXE_dev-agent")), &binary);
    }
    let mut command = Command::new(binary);
    command
        .env_clear()
        .current_dir("/")
        .stderr(Stdio::piped())
        .uid(uid)
        .gid(uid);
    command
}

#[test]
fn another_user_is_refused_by_the_file_and_by_the_agent() {
    let Some(user) = another_user() else {
        return;
    };
    let (directory, uid) = (AgentDirectory::new(), user.uid.as_raw());
    let mut agent = directory.agent();
    let control = directory.path("a.sock.ctl");
    let stall = || {
        let mut ctl = foreign(&directory, uid);
        Finished::of(ctl.args(["ctl", "stall", "--control-socket"]).arg(&control))
    };
    stall().refused(1, "only the user who runs the agent and root may");

    // The agent refuses the user even if the file is open to all.
    fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).unwrap();
    let reason =
        format!("only user 0, who runs this agent, and root may control it; you are user {uid}");
    stall().refused(1, &reason);
    let logged = agent.log().next().unwrap();
    assert!(
        logged.contains("refused, as it is another user"),
        "{logged}"
    );
    assert!(logged.contains(&format!("uid={uid}")), "{logged}");
    assert_eq!(directory.status()["phase"], "serving");
}

#[test]
fn root_controls_a_users_agent_and_the_user_refuses_an_agent_of_others() {
    let Some(user) = another_user() else {
        return;
    };
    let (directory, uid) = (AgentDirectory::new(), user.uid.as_raw());
    chown(directory.0.path(), Some(uid), None).unwrap();
    let mut agent = foreign(&directory, uid);
    agent
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(directory.path("a.sock"));
    let (_agent, _) = Running::start(&mut agent);
    directory.ctl(&["stall"]).done();
    assert_eq!(directory.status()["phase"], "stalled");

    // A third user makes a socket and opens it to all.
    let third = uid + 1;
    let trap = directory.path("trap");
    fs::create_dir(&trap).unwrap();
    chown(&trap, Some(third), None).unwrap();
    let mut theirs = foreign(&directory, third);
    let (socket, control) = (trap.join("a.sock"), trap.join("a.sock.ctl"));
    theirs
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(socket);
    let (_theirs, _) = Running::start(&mut theirs);
    fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).unwrap();
    let mut ctl = foreign(&directory, uid);
    let answer = Finished::of(
        ctl.args(["ctl", "status", "--control-socket"])
            .arg(&control),
    );
    answer.refused(1, &format!("its owner is user {third}, and not you"));
}
