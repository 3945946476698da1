use std::{
    fs,
    sync::mpsc::{self, Sender},
    thread,
};

use harness::{Stack, process::Process, skip, wait::until};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// Returns the thread of this name.
fn thread_of(process: &Process, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let mut threads = tasks.map(|task| task.unwrap().path());
    let thread = threads.find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name);
    let id = thread.unwrap().file_name().unwrap().to_owned();
    Pid::from_raw(id.to_str().unwrap().parse().unwrap())
}

/// Stops one thread until the sender is dropped. Returns `None` if this process may not.
fn stop(thread: Pid) -> Option<Sender<()>> {
    let (release, released) = mpsc::channel::<()>();
    let (sender, stopped) = mpsc::channel();
    // ptrace takes calls about a thread only from the thread that seized it.
    thread::spawn(move || {
        let seized = ptrace::seize(thread, Options::empty()).and_then(|()| {
            ptrace::interrupt(thread)?;
            waitpid(thread, Some(WaitPidFlag::__WALL)).map(drop)
        });
        sender.send(seized).unwrap();
        let _ = released.recv();
        let _ = ptrace::detach(thread, None);
    });
    match stopped.recv().unwrap() {
        Err(Errno::EPERM | Errno::ENOSYS) => None,
        stopped => {
            stopped.unwrap();
            Some(release)
        }
    }
}

#[tokio::test]
async fn core_that_is_stuck_is_named_with_503_until_it_answers_again() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&["--cores", "2"]).await;
    let live = admin.get("/live").await;
    assert_eq!((live.status, live.body.as_str()), (200, "live\n"));

    let Some(stopped) = stop(thread_of(&server, "core-1")) else {
        skip("a thread can't be stopped here, which needs ptrace");
        return;
    };
    // The other core may be late too while the machine is busy.
    until(async || {
        let live = admin.get("/live").await;
        assert_eq!(live.status, 503);
        live.body == "no answer within 1 s: core-1\n"
    })
    .await;
    assert_eq!(
        admin.get("/ready").await.status,
        200,
        "answers next to a stuck core"
    );

    drop(stopped);
    until(async || admin.get("/live").await.status == 200).await;
}
