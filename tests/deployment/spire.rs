use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use harness::{process::install, results::ROOT};

/// A program in the place of `spire-server` and `id`: the server is healthy and has no entries, and
/// each user exists. It writes the options of a created entry on a line.
const STAND_IN: &str = r#"#!/bin/sh
case "$*" in
*'entry create '*) echo "$*" >>"$CREATED" ;;
esac
"#;

/// Returns the options of each entry that deploy/spire/register.sh creates with these arguments.
fn registered(args: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    fs::write(&source, STAND_IN).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["spire-server", "id"] {
        install(&source, &directory.path().join(name));
    }
    let created = directory.path().join("created");
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(Path::new(ROOT).join("deploy/spire/register.sh"))
        .args(args)
        .env("PATH", format!("{}:{path}", directory.path().display()))
        .env("CREATED", &created)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    fs::read_to_string(created).unwrap()
}

/// Returns what follows `prefix` in the lines of a directory's files.
fn values(directory: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for file in fs::read_dir(Path::new(ROOT).join(directory)).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let values = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(prefix));
        found.extend(values.map(str::to_owned));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn spire_registers_each_user_of_the_units() {
    let registered = registered(&[]);
    let users = values("deploy/systemd", "User=");
    assert_eq!(users.len(), 3, "{users:?}");
    for user in users {
        let selector = format!("-selector unix:user:{user}");
        assert!(
            registered.contains(&selector),
            "{selector} in:\n{registered}"
        );
    }
}

#[test]
fn spire_registers_each_service_account_of_the_manifests() {
    let registered = registered(&["--kubernetes"]);
    let accounts: Vec<_> = ["gateway", "sidecar"]
        .iter()
        .flat_map(|overlay| {
            values(
                &format!("deploy/kubernetes/{overlay}"),
                "serviceAccountName: ",
            )
        })
        .collect();
    assert_eq!(accounts, ["gateway", "orders", "shop"]);
    for account in accounts {
        let entry = format!(
            "-spiffeID spiffe://example.org/ns/spiffe-jwt-proxy/sa/{account} -selector k8s:ns:spiffe-jwt-proxy \
             -selector k8s:sa:{account}"
        );
        assert!(registered.contains(&entry), "{entry} in:\n{registered}");
    }
}
