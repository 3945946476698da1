use super::*;

#[test]
fn the_start_time_is_counted_from_the_last_parenthesis_w037() {
    let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20";
    for (stat, expected) in [
        (format!("77 (cat) {rest}"), Some(987_654)),
        (format!("77 (a) R 1 (b) {rest}"), Some(987_654)),
        (format!("77 () ) {rest}"), Some(987_654)),
        (format!("77 (cat) {}", rest.replace('S', "Z")), None),
        ("77 (cat) S 1 2 3".to_owned(), None),
        ("77 cat".to_owned(), None),
        (String::new(), None),
    ] {
        assert_eq!(parse_start_time(stat.as_bytes()), expected, "{stat}");
    }
}

async fn own_peer() -> PeerProcess {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    PeerProcess::of(&ours).unwrap()
}

fn attestor(selectors: &str) -> Arc<Attestor> {
    let entry = format!("spiffe://example.org/a={selectors}")
        .parse()
        .unwrap();
    Arc::new(Attestor::new(&[entry]))
}

#[tokio::test]
async fn a_live_process_is_attested_by_the_selectors_of_the_entries_w033() {
    let peer = own_peer().await;
    let uid = Selector::Uid(Uid::effective().as_raw());
    let gid = Selector::Gid(Gid::effective().as_raw());
    let caller = attestor("unix:uid:0").attest(peer.clone()).await.unwrap();
    assert_eq!(caller.selectors, HashSet::from([uid, gid]));
    assert_eq!(caller.peer.pid, std::process::id());

    let caller = attestor("unix:path:/x").attest(peer).await.unwrap();
    let exe = std::env::current_exe().unwrap();
    assert!(caller.selectors.contains(&Selector::Path(exe.into())));
}

#[tokio::test]
async fn another_process_with_the_same_number_is_refused_w036() {
    let mut peer = own_peer().await;
    // Linux has no pidfd of a peer before 6.5.
    peer.pidfd = None;
    let attestor = attestor("unix:uid:0");
    for start_time in [peer.start_time.map(|time| time + 1), None] {
        peer.start_time = start_time;
        let error = attestor.attest(peer.clone()).await.unwrap_err();
        assert!(matches!(error, AttestError::Ended), "{error}");
    }
}

#[tokio::test]
async fn a_process_that_changed_its_user_is_refused_w039() {
    let mut peer = own_peer().await;
    peer.uid += 1;
    let error = attestor("unix:uid:0").attest(peer).await.unwrap_err();
    assert!(matches!(error, AttestError::CredentialsChanged), "{error}");
}

#[tokio::test]
async fn a_caller_of_another_namespace_is_refused_w034() {
    let peer = own_peer().await;
    let attestor = attestor("unix:uid:0");
    let error = attestor
        .attest(PeerProcess {
            pid: 0,
            ..peer.clone()
        })
        .await
        .unwrap_err();
    assert!(matches!(error, AttestError::NoProcess), "{error}");
    let uid = OVERFLOW_UID;
    let error = attestor
        .attest(PeerProcess { uid, ..peer })
        .await
        .unwrap_err();
    assert!(matches!(error, AttestError::UnmappedUser), "W61: {error}");
}

/// Returns the peer with the number of a child, and without a pidfd, because the child did not
/// connect.
fn child_peer(peer: &PeerProcess, child: &std::process::Child) -> PeerProcess {
    let pid = child.id();
    PeerProcess {
        pid,
        start_time: start_time(pid),
        pidfd: None,
        ..peer.clone()
    }
}

#[tokio::test]
async fn the_binary_of_a_script_is_its_interpreter_w048() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("server");
    // Another process writes the file. A child that another thread starts meanwhile would otherwise
    // hold it open for writing, and then the kernel refuses to run it.
    let write = "echo '#!/bin/cat' >\"$0\" && chmod 755 \"$0\"";
    let written = std::process::Command::new("sh")
        .args(["-c", write])
        .arg(&script)
        .status();
    assert!(written.unwrap().success());
    let mut child = std::process::Command::new(&script)
        .arg("-")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let peer = child_peer(&own_peer().await, &child);
    let caller = attestor("unix:path:/x").attest(peer).await.unwrap();
    let cat = fs::canonicalize("/bin/cat").unwrap();
    assert!(caller.selectors.contains(&Selector::Path(cat.into())));
    assert!(!caller.selectors.contains(&Selector::Path(script.into())));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_path_matches_only_if_it_is_the_same_file_for_the_agent_w049() {
    let pid = std::process::id();
    let exe = std::env::current_exe().unwrap();
    let deleted = format!("{}{DELETED}", exe.display());
    for (number, path, expected) in [
        ("W49 the same file", exe.as_path(), true),
        (
            "W49 another file of that name, as in a container",
            Path::new("/bin/sh"),
            false,
        ),
        ("W49 no file of that name", Path::new("/nowhere"), false),
        ("W47 gone", Path::new(&deleted), false),
        (
            "W50 never in a file system",
            Path::new("/memfd:x (deleted)"),
            false,
        ),
    ] {
        assert_eq!(is_our_file(pid, path), expected, "{number}");
    }
}

#[test]
fn a_path_is_compared_byte_by_byte_w051() {
    use std::ffi::OsStr;
    let path = |bytes: &[u8]| Selector::Path(OsStr::from_bytes(bytes).to_owned());
    assert_ne!(path(b"/a\xff"), path("/a\u{fffd}".as_bytes()));
    assert_ne!(path(b"/a\n"), path(b"/a"));
    assert_eq!(path(b"/a:b"), "unix:path:/a:b".parse().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_attestation_that_hangs_ends_at_its_deadline_w062() {
    let peer = own_peer().await;
    let attestor = attestor("unix:uid:0");
    let _all = attestor
        .permits
        .acquire_many(CONCURRENCY as u32)
        .await
        .unwrap();
    let error = attestor.attest(peer).await.unwrap_err();
    assert!(matches!(error, AttestError::Deadline), "{error}");
}

/// The agent of another user can't read which binary the caller runs.
#[tokio::test]
async fn a_caller_whose_binary_cannot_be_read_is_refused_if_an_entry_has_a_path_w052() {
    let peer = own_peer().await;
    // The same step fails for a process that does not exist.
    let peer = PeerProcess {
        pid: u32::MAX / 2,
        ..peer
    };
    let error = attestor("unix:uid:0,unix:path:/x")
        .attest(peer)
        .await
        .unwrap_err();
    assert!(matches!(error, AttestError::Path(_)), "{error}");
}

#[tokio::test]
async fn a_process_that_ended_is_refused_w038() {
    let mut peer = own_peer().await;
    let mut child = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    peer.pid = child.id();
    peer.start_time = start_time(peer.pid);
    let attestor = attestor("unix:uid:0");
    peer.pidfd = None;
    attestor.attest(peer.clone()).await.unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    let error = attestor.attest(peer).await.unwrap_err();
    assert!(matches!(error, AttestError::Ended), "{error}");
}
