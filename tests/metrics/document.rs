use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use harness::{Stack, admin::Admin, app::App};

/// Starts a process of each role, and returns the page of each.
async fn pages() -> Vec<String> {
    let (stack, app) = (Stack::new().await, App::start("http").await);
    let (server, of_server) = stack.server_with_admin(&["--upstream", &app.url]).await;
    let port = server.listening().await;
    let (_proxy, of_proxy) = stack.proxy_with_admin(port, &[]).await;
    let url = format!("https://localhost:{port}");
    let args = ["--listen", "127.0.0.1:0", "--url", &url];
    let (client, of_client) = stack.spawn_with_admin("client", &args).await;
    client.listening().await;
    stack.https(port).status(&stack.token(|_| ())).await;
    let page = async |admin: Admin| admin.get("/metrics").await.body;
    vec![
        page(of_server).await,
        page(of_proxy).await,
        page(of_client).await,
    ]
}

/// Returns the metrics of a page with the type and the labels of each, except the role.
fn metrics(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut metrics = BTreeMap::new();
    let mut last = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            last = name.to_owned();
            metrics.insert(last.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{') {
            let names = labels.split("=\"").filter_map(|part| {
                let name = part.rsplit([',', '"', '{']).next()?;
                let is_name = name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                (is_name && !name.is_empty()).then(|| name.to_owned())
            });
            let (_, all) = metrics.get_mut(&last).unwrap();
            all.extend(names.filter(|name| name != "role" && name != "le"));
        }
    }
    metrics
}

#[tokio::test]
async fn document_has_each_metric_with_its_type_and_labels_and_no_other() {
    let mut found = BTreeMap::new();
    for page in pages().await {
        for (name, (kind, labels)) in metrics(&page) {
            let known = found.entry(name).or_insert((kind, BTreeSet::new()));
            known.1.extend(labels);
        }
    }
    let document = include_str!("../../deploy/metrics.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.split(" | ").collect();
        let name = cells[0].trim_start_matches("| ").trim_matches('`');
        let labels = cells[2].split(", ").map(|label| label.trim_matches('`'));
        let labels = labels.filter(|label| *label != "–").map(str::to_owned);
        (name.to_owned(), (cells[1].to_owned(), labels.collect()))
    });
    let documented: BTreeMap<_, (_, BTreeSet<_>)> = rows.collect();
    assert_eq!(documented, found);
}

#[tokio::test]
async fn pages_of_all_roles_are_clean_for_promtool() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return harness::skip("promtool is missing: apt-get install prometheus");
    }
    for page in pages().await {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = promtool.stdin.take().unwrap();
        input.write_all(page.as_bytes()).unwrap();
        drop(input);
        let output = promtool.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success() && text.trim().is_empty(), "{text}");
    }
}
