use std::{fs, path::Path};

use harness::results::ROOT;

/// The manifests whose pods run the image.
const MANIFESTS: [&str; 3] = [
    "gateway/gateway.yaml",
    "sidecar/orders.yaml",
    "sidecar/shop.yaml",
];
/// The overlays, which name its tag.
const OVERLAYS: [&str; 2] = ["gateway", "sidecar"];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap()
}

/// Returns the word after `key` in the Containerfile.
fn setting(key: &str) -> String {
    let text = read("deploy/container/Containerfile");
    let (_, rest) = text.split_once(key).unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn pods_have_the_user_and_the_socket_of_the_image() {
    let user = setting("USER ");
    let (user, group) = user.split_once(':').unwrap();
    let socket = setting("SPIFFE_ENDPOINT_SOCKET=");
    for manifest in MANIFESTS {
        let text = read(&format!("deploy/kubernetes/{manifest}"));
        for wanted in [
            format!("runAsUser: {user}\n"),
            format!("runAsGroup: {group}\n"),
            format!("value: {socket}\n"),
        ] {
            assert!(text.contains(&wanted), "{manifest}: {wanted}");
        }
    }
}

#[test]
fn overlays_name_the_image_of_this_version() {
    let tag = format!("newTag: {}\n", env!("CARGO_PKG_VERSION"));
    for overlay in OVERLAYS {
        let text = read(&format!("deploy/kubernetes/{overlay}/kustomization.yaml"));
        let (_, image) = text.split_once("name: spiffe-jwt-proxy\n").unwrap();
        assert!(
            image
                .lines()
                .nth(1)
                .is_some_and(|line| tag.trim() == line.trim()),
            "{overlay}"
        );
    }
}
