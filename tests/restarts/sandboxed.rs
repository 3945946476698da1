use std::{fs, os::unix::fs::symlink, path::Path};

use harness::{SERVER_ID, Stack, https::get, wait::until, x509::Authority};

/// Returns whether this kernel has all of the sandbox.
async fn is_whole(line: &str) -> bool {
    let is_whole = line.contains("sandbox entered: ");
    if !is_whole {
        harness::skip(&format!("this kernel lacks a part of Landlock: {line}"));
    }
    is_whole
}

#[tokio::test]
async fn each_thread_of_a_process_is_in_its_sandbox_unless_it_is_off() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let line = server.logged("sandbox").await;
    if !is_whole(&line).await {
        return;
    }
    let threads = |pid| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads
            .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok())
            .collect::<Vec<_>>()
    };
    // A thread gets this with its restrictions, and cannot lose it.
    let restricted = |status: &String| status.contains("NoNewPrivs:\t1");
    let found = threads(server.pid());
    assert!(found.len() > 2 && found.iter().all(restricted), "{found:?}");
    let mut free = stack.server(&["--sandbox", "off"]).await;
    assert!(!threads(free.pid()).iter().any(restricted));
    assert!(!free.whole_log().await.contains("sandbox"));
}

#[tokio::test]
async fn processes_in_a_sandbox_that_is_required_forward_and_read_their_files_again() {
    let stack = Stack::new().await;
    let probe = stack.server(&[]).await;
    if !is_whole(&probe.logged("sandbox").await).await {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.toml");
    let rule = |path: &str| format!("[[rule]]\npaths = [\"{path}\"]\npublic = true\n");
    fs::write(&policy, rule("/a")).unwrap();
    let required = ["--sandbox", "required"];
    let args = ["--policy", policy.to_str().unwrap()];
    let server = stack.server(&[args, required].concat()).await;
    let proxy = stack.proxy(server.listening().await, &required).await;
    let https = stack.https(proxy.listening().await);
    let status = async || https.send(get(&[])).await.status;
    assert_eq!(status().await, 401);

    let new = directory.path().join("new");
    fs::write(&new, rule("/")).unwrap();
    fs::rename(&new, &policy).unwrap();
    until(async || status().await == 200).await;
}

#[tokio::test]
async fn process_in_its_sandbox_keeps_the_files_of_the_kernel_about_itself() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    if !is_whole(&server.logged("sandbox").await).await {
        return;
    }
    // The kernel drops the rule of a directory that is not open when memory is short, which a test cannot cause.
    let own = format!("/proc/{}", server.pid());
    let files = fs::read_dir(format!("{own}/fd")).unwrap();
    let mut opened = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
    assert!(opened.any(|file| file == Path::new(&own)));
}

#[tokio::test]
async fn client_in_its_sandbox_reads_ca_certificates_that_are_links() {
    let stack = Stack::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let ca = elsewhere.path().join("ca.pem");
    fs::write(&ca, Authority::root().pem()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("ca.pem");
    symlink(&ca, &link).unwrap();
    for (variable, path) in [
        ("SSL_CERT_FILE", &*link),
        ("SSL_CERT_DIR", directory.path()),
    ] {
        let args = [SERVER_ID, "--server-name", "localhost"];
        let args = [&args as &[&str], &["--listen", "127.0.0.1:0"]].concat();
        let client = stack.spawn_with("client", &args, &[(variable, path)]);
        client.listening().await;
    }
}

#[tokio::test]
async fn policy_in_a_directory_that_is_made_again_is_refused_with_the_remedy() {
    let stack = Stack::new().await;
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("policy");
    let policy = directory.join("policy.toml");
    let make = || {
        fs::create_dir(&directory).unwrap();
        fs::write(&policy, "[[rule]]\npaths = [\"/\"]\npublic = true\n").unwrap();
    };
    make();
    let server = stack.server(&["--policy", policy.to_str().unwrap()]).await;
    if !is_whole(&server.logged("sandbox").await).await {
        return;
    }
    fs::rename(&directory, above.path().join("old")).unwrap();
    make();
    let line = server.logged("policy not taken").await;
    assert!(
        line.ends_with("the sandbox denies it: restart this process"),
        "{line}"
    );
}
