use std::fs;

use nix::unistd::Uid;

use super::{AgentDirectory, Finished};
use crate::{
    process::{Running, entry},
    support::web_certificate,
};

/// Starts an agent of `b.test` with a bundle endpoint. Returns the URL of that too.
fn with_endpoint(directory: &AgentDirectory, args: &[&str]) -> (Running, String) {
    let mut agent = directory.command();
    let entry = format!("spiffe://b.test/y=unix:uid:{}", Uid::effective());
    agent
        .args(["--entry", &entry, "--bundle-endpoint", "127.0.0.1:0"])
        .args(args);
    let (running, _) = Running::start(&mut agent);
    let address = directory.status()["bundle_endpoint"]["address"].clone();
    (running, format!("https://{}", address.as_str().unwrap()))
}

#[test]
fn relationship_begins_fails_and_ends_by_commands_f014() {
    let (ours, theirs) = (AgentDirectory::new(), AgentDirectory::new());
    let (_theirs, url) = with_endpoint(&theirs, &[]);
    let _ours = ours.agent();
    let bundle = ours.path("b.json");
    let with = format!("spiffe://b.test={url};bundle={}", bundle.display());
    ours.ctl(&["federate-with", &with])
        .refused(2, "cannot read");
    let started = theirs.ctl(&["status"]).done();
    assert!(
        started.contains("https_spiffe  spiffe://b.test/spire/server  normal, sequence "),
        "{started}"
    );

    fs::write(&bundle, r#"{"keys":[]}"#).unwrap();
    let begun = ours.ctl(&["federate-with", &with]).done();
    assert_eq!(begun, "fetching from now on: spiffe://b.test\n");
    let refresh = ["refresh", "spiffe://b.test"];
    ours.ctl(&refresh)
        .refused(1, "no X.509 bundle for trust domain b.test");
    fs::write(&bundle, theirs.ctl(&["bundle"]).done()).unwrap();
    ours.ctl(&["federate-with", &with]).done();
    let fetched = ours.ctl(&refresh).done();
    assert!(fetched.starts_with("fetched: spiffe://b.test, sequence 1"));
    let other = url.replace("https:", "http:");
    let with = format!("spiffe://b.test={other};bundle={}", bundle.display());
    ours.ctl(&["federate-with", &with])
        .refused(1, "is not an https URL");

    let modes = ["gone", "normal"].map(|mode| theirs.ctl(&["endpoint", mode]).done());
    assert_eq!(
        modes,
        ["bundle endpoint: gone\n", "bundle endpoint: normal\n"]
    );
    theirs
        .ctl(&["endpoint", "late"])
        .refused(2, "expected one of normal, stale, old-sequence");
    let ended = ours.ctl(&["unfederate", "spiffe://b.test"]).done();
    assert_eq!(ended, "unfederated: spiffe://b.test\n");
    ours.ctl(&refresh).refused(1, "does not fetch its bundle");
}

#[test]
fn flags_federate_from_the_start_by_name_f009() {
    let (ours, theirs) = (AgentDirectory::new(), AgentDirectory::new());
    let (_, ca, [certificate, key]) = web_certificate();
    let paths = ["crt", "key", "ca"].map(|name| theirs.path(name).display().to_string());
    for (path, text) in paths.iter().zip([certificate, key, ca]) {
        fs::write(path, text).unwrap();
    }
    let web = ["--web-certificate", &paths[0], "--web-key", &paths[1]];
    let profile = ["--bundle-endpoint-profile", "https_web"];
    let oidc = [
        "--oidc-endpoint",
        "127.0.0.1:0",
        "--jwt-issuer",
        "https://i.test",
    ];
    let (_theirs, url) = with_endpoint(&theirs, &[&web[..], &profile, &oidc].concat());
    let with = format!("spiffe://b.test={url};profile=https_web;ca={}", paths[2]);
    let mut agent = ours.command();
    agent.args(["--entry", &entry(), "--federate-with", &with]);
    let (_ours, _) = Running::start(&mut agent);
    let fetched = ours.ctl(&["refresh", "spiffe://b.test"]).done();
    assert!(
        fetched.starts_with("fetched: spiffe://b.test, sequence 1"),
        "{fetched}"
    );
    let text = ours.ctl(&["status"]).done();
    let line = format!("spiffe://b.test  https_web  {url}/  current, sequence 1");
    assert!(text.contains(&line), "{text}");
    assert_eq!(ours.status()["partners"][0]["state"], "current");
    assert_eq!(theirs.status()["oidc_endpoint"]["issuer"], "https://i.test");

    // The address is taken.
    let third = AgentDirectory::new();
    let mut agent = third.command();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = held.local_addr().unwrap().to_string();
    agent.args(["--entry", &entry(), "--bundle-endpoint", &busy]);
    let failed = Finished::of(&mut agent);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(
        failed.stderr.contains(&format!("cannot listen on {busy}")),
        "{failed:?}"
    );
}
