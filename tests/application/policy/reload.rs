use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Method, Version};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use harness::{CLIENT_ID, SERVER_ID, wait};

use super::{Guarded, POLICY, PolicyFile, send};

/// Returns the policy with one more public path.
fn with_public(path: &str) -> String {
    format!("{POLICY}\n[[rule]]\nname = \"new\"\npaths = [\"{path}\"]\npublic = true\n")
}

/// Replaces a file as editors and deployment tools do.
fn rename_over(path: &Path, text: &str) {
    let next = path.with_extension("new");
    fs::write(&next, text).unwrap();
    fs::rename(&next, path).unwrap();
}

impl Guarded {
    /// Waits until a request without a token gets this status.
    async fn becomes(&self, path: &str, status: u16) {
        wait::until(async || self.get(path, "").await == status).await;
    }
}

#[tokio::test]
async fn a_changed_file_is_in_force_without_a_failed_request_u025() {
    let guarded = Guarded::new(POLICY, &[]).await;
    let token = guarded.token(CLIENT_ID, &[SERVER_ID]);
    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (https, token) = (guarded.https.clone(), token.clone());
        let (done, answered) = (Arc::clone(&done), Arc::clone(&answered));
        callers.spawn(async move {
            while !done.load(SeqCst) {
                let (status, _) = send(&https, version, &Method::GET, "/orders", &token).await;
                assert_eq!(status, 200);
                answered.fetch_add(1, SeqCst);
            }
        });
    }
    let path = guarded.file.path();
    assert_eq!(guarded.get("/a", "").await, 401);
    rename_over(&path, &with_public("/a"));
    guarded.becomes("/a", 200).await;
    fs::write(&path, with_public("/b")).unwrap();
    guarded.becomes("/b", 200).await;
    assert_eq!(guarded.get("/a", "").await, 401);
    fs::remove_file(&path).unwrap();
    rename_over(&path, &with_public("/c"));
    guarded.becomes("/c", 200).await;
    let before = answered.load(SeqCst);
    wait::until(async || answered.load(SeqCst) > before + 2).await;
    done.store(true, SeqCst);
    while let Some(joined) = callers.join_next().await {
        joined.unwrap();
    }
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_in_force_u025() {
    let mounted = PolicyFile::new("");
    let at = |name: &str| mounted.0.path().join(name);
    for (version, text) in [("..1", POLICY), ("..2", &with_public("/new"))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("policy.toml"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    fs::remove_file(mounted.path()).unwrap();
    symlink("..data/policy.toml", mounted.path()).unwrap();
    let guarded = Guarded::of(mounted, &[]).await;
    assert_eq!(guarded.get("/new", "").await, 401);
    let directory = guarded.file.0.path();
    symlink("..2", directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    guarded.becomes("/new", 200).await;
}

#[tokio::test]
async fn sighup_reads_the_file_again_at_once_u025() {
    let guarded = Guarded::new(POLICY, &[]).await;
    let server = &guarded.server;
    server.signal(Signal::SIGHUP);
    server.logged_times("policy in force", 2).await;
    assert_eq!(guarded.get("/a", "").await, 401, "nothing has changed");
    rename_over(&guarded.file.path(), &with_public("/a"));
    server.signal(Signal::SIGHUP);
    guarded.becomes("/a", 200).await;
    let line = server.logged("rules=4").await;
    assert!(line.contains(&guarded.file.text()), "{line}");
}

#[tokio::test]
async fn a_mistake_is_one_error_and_the_policy_before_it_stays_in_force_u026() {
    let guarded = Guarded::new(&with_public("/a"), &[]).await;
    let (server, path) = (&guarded.server, guarded.file.path());
    rename_over(&path, &with_public("b"));
    let line = server.logged("the one before it stays in force").await;
    assert!(line.contains("ERROR"), "{line}");
    assert!(line.contains("line 22, column 10: "), "{line}");
    assert_eq!(guarded.get("/a", "").await, 200);
    let token = guarded.token(CLIENT_ID, &[SERVER_ID]);
    assert_eq!(guarded.get("/orders", &token).await, 200);
    fs::remove_file(&path).unwrap();
    let line = server.logged("No such file").await;
    assert!(line.contains("ERROR"), "{line}");
    assert_eq!(guarded.get("/a", "").await, 200);
    server.signal(Signal::SIGHUP);
    server.logged_times("stays in force", 3).await;
    rename_over(&path, &with_public("/b"));
    guarded.becomes("/b", 200).await;
    assert_eq!(guarded.get("/a", "").await, 401);
    let log = server.log();
    let errors = log.iter().filter(|line| line.contains("stays in force"));
    assert_eq!(errors.count(), 3, "{log:#?}");
}

#[tokio::test]
async fn a_new_audience_is_accepted_for_tokens_that_were_verified_before_u025() {
    let guarded = Guarded::new(POLICY, &[]).await;
    let token = guarded.token(CLIENT_ID, &[SERVER_ID, "new-api"]);
    assert_eq!(guarded.get("/orders", &token).await, 200);
    assert_eq!(guarded.get("/admin/x", &token).await, 401);
    let next = POLICY.replace("admin-api", "new-api");
    rename_over(&guarded.file.path(), &next);
    guarded.server.signal(Signal::SIGHUP);
    wait::until(async || guarded.get("/admin/x", &token).await == 200).await;
    assert_eq!(guarded.get("/orders", &token).await, 200);
}

#[tokio::test]
async fn a_trust_domain_of_a_policy_without_a_bundle_is_warned_of_t003() {
    let partner = |name: &str| POLICY.replace("example.org/client", &format!("{name}/client"));
    let guarded = Guarded::new(&partner("partner.example"), &[]).await;
    let text = "no JWT bundle for trust domain partner.example of --policy";
    guarded.server.logged(text).await;
    rename_over(&guarded.file.path(), &partner("other.example"));
    let text = "no JWT bundle for trust domain other.example of --policy";
    guarded.server.logged(text).await;
}
