use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Answer, Place};
use crate::process::{Running, command, entry};
use crate::support::{another_user, install};

#[test]
fn the_socket_is_where_both_sides_expect_it() {
    let place = Place::new();
    let (socket, control) = (place.path("a.sock"), place.path("elsewhere.sock"));
    let agent = |args: &[&str]| {
        let mut agent = command();
        agent.args(["--entry", &entry()]).args(args);
        Running::start(agent.arg("--socket").arg(&socket)).0
    };
    let ctl = |args: &[&str]| Answer::of(command().arg("ctl").args(args));
    let (socket_path, control_path) = (socket.to_str().unwrap(), control.to_str().unwrap());
    let endpoint = format!("unix://{socket_path}");

    let running = agent(&[]);
    ctl(&["--socket", socket_path, "status"]).done();
    ctl(&["status", "--socket", &endpoint]).done();
    Answer::of(
        command()
            .env("DEV_AGENT_SOCKET", &socket)
            .args(["ctl", "status"]),
    )
    .done();
    running.stop("-TERM");
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0);

    let running = agent(&["--control-socket", control_path]);
    ctl(&["status", "--control-socket", control_path]).done();
    let mut named = command();
    named.env("DEV_AGENT_CONTROL_SOCKET", &control);
    Answer::of(named.args(["ctl", "status"])).done();
    ctl(&["status", "--socket", socket_path]).refused(1, "no socket is there; start dev-agent");
    running.stop("-INT");
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0);

    let running = agent(&["--control-socket", "none"]);
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1);
    ctl(&["status", "--control-socket", "none"]).refused(2, "cannot be controlled");
    running.stop("-TERM");
}

#[test]
fn a_path_with_no_room_for_more_is_no_reason_to_fail() {
    let place = Place::new();
    let mut name = "a".repeat(105 - place.path("").as_os_str().len());
    let mut start = |args: &[&str]| {
        let mut agent = command();
        agent.args(["--entry", &entry()]).args(args);
        let (running, lines) = Running::start(agent.arg("--socket").arg(place.path(&name)));
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
fn what_a_killed_agent_left_behind_is_in_nobodys_way() {
    let place = Place::new();
    drop(place.agent());
    let control = place.path("a.sock.ctl");
    assert!(control.exists(), "it could not clean up");
    let reason = format!(
        "cannot control an agent by {}: nobody listens there any more; start dev-agent again",
        control.display()
    );
    place.ctl(&["status"]).refused(1, &reason);
    let _agent = place.agent();
    place.ctl(&["status"]).done();
}

#[test]
fn a_second_agent_in_the_same_place_is_refused_even_while_the_first_is_down() {
    let place = Place::new();
    let _agent = place.agent();
    let second = |place: &Place| {
        let answer = Answer::of(place.command().args(["--entry", &entry()]));
        assert_eq!(answer.code, Some(1));
        assert!(
            answer.stderr.contains("another agent is listening"),
            "{answer:?}"
        );
    };
    second(&place);
    let mut down = place.command();
    let mut down = down
        .args(["ctl", "restart", "--down-for", "1h"])
        .spawn()
        .unwrap();
    while place.status()["phase"] != "stopped" {}
    second(&place);
    down.kill().unwrap();
    down.wait().unwrap();
    assert_eq!(
        place.status()["phase"],
        "stopped",
        "it goes on without its caller"
    );
}

/// A copy of the binary that another user may run.
fn foreign(place: &Place, uid: u32) -> Command {
    let binary = place.path("dev-agent");
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
    let (place, uid) = (Place::new(), user.uid.as_raw());
    let mut agent = place.agent();
    let control = place.path("a.sock.ctl");
    let try_it = || {
        let mut ctl = foreign(&place, uid);
        Answer::of(ctl.args(["ctl", "stall", "--control-socket"]).arg(&control))
    };
    try_it().refused(1, "only the user who runs the agent and root may");

    // Whatever has become of the file.
    fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).unwrap();
    let reason =
        format!("only user 0, who runs this agent, and root may control it; you are user {uid}");
    try_it().refused(1, &reason);
    let logged = agent.log().next().unwrap();
    assert!(
        logged.contains("refused, as it is another user"),
        "{logged}"
    );
    assert!(logged.contains(&format!("uid={uid}")), "{logged}");
    assert_eq!(place.status()["phase"], "serving");
}

#[test]
fn root_controls_the_agent_of_a_user_who_is_not_fooled_by_others() {
    let Some(user) = another_user() else {
        return;
    };
    let (place, uid) = (Place::new(), user.uid.as_raw());
    chown(place.directory.path(), Some(uid), None).unwrap();
    let mut agent = foreign(&place, uid);
    agent
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(place.path("a.sock"));
    let (_agent, _) = Running::start(&mut agent);
    place.ctl(&["stall"]).done();
    assert_eq!(place.status()["phase"], "stalled");

    // A socket that a third user made, and opened for all.
    let third = uid + 1;
    let trap = place.path("trap");
    fs::create_dir(&trap).unwrap();
    chown(&trap, Some(third), None).unwrap();
    let mut theirs = foreign(&place, third);
    let (socket, control) = (trap.join("a.sock"), trap.join("a.sock.ctl"));
    theirs
        .args(["--entry", &entry()])
        .arg("--socket")
        .arg(socket);
    let (_theirs, _) = Running::start(&mut theirs);
    fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).unwrap();
    let mut ctl = foreign(&place, uid);
    let answer = Answer::of(
        ctl.args(["ctl", "status", "--control-socket"])
            .arg(&control),
    );
    answer.refused(
        1,
        &format!("who listens there is user {third}, and not you"),
    );
}
