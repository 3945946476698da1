use http::{Method, Version};

use harness::{CLIENT_ID, SERVER_ID, Stack, https::get};

use super::{Guarded, POLICY};

#[tokio::test]
async fn observe_lets_everything_pass_with_the_id_of_verified_callers_only_u027() {
    let mut guarded = Guarded::new(POLICY, &["--enforce", "observe"]).await;
    let line = guarded.server.logged("listening on").await;
    assert!(line.contains("WARN"), "{line}");
    assert!(line.contains("refusing no request"), "{line}");
    let client = guarded.token(CLIENT_ID, &[SERVER_ID]);
    let forged = format!("{client}x");
    for (method, path, token, caller) in [
        ("GET", "/orders", client.as_str(), Some(CLIENT_ID)),
        ("POST", "/orders", &client, Some(CLIENT_ID)),
        ("GET", "/admin/x", &client, None),
        ("GET", "/orders", &forged, None),
        ("GET", "/orders", "", None),
        ("GET", "/nowhere", "two tokens", None),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let method: Method = method.parse().unwrap();
            let (status, _) = guarded.send(version, &method, path, token).await;
            assert_eq!(status, 200, "{method} {path}");
            let (head, _) = guarded.app.take_one();
            let id = head.headers.get("x-spiffe-id");
            assert_eq!(id.map(|id| id.to_str().unwrap()), caller, "{method} {path}");
            let has_token = head.headers.contains_key("authorization");
            assert!(!has_token, "{method} {path}");
        }
    }
    let line = guarded.server.logged("so_far=10").await;
    assert!(line.contains("let through by --enforce observe"), "{line}");
    let log = guarded.server.whole_log().await;
    for (text, times) in [
        ("let through by --enforce observe", 10),
        ("no rule matches", 2),
        ("requests=10", 1),
    ] {
        let lines = log.lines().filter(|line| line.contains(text));
        assert_eq!(lines.count(), times, "{text}: {log}");
    }
}

#[tokio::test]
async fn observe_logs_a_flood_within_the_quota_and_counts_all_of_it_u027() {
    let stack = Stack::new().await;
    let mut server = stack.server(&["--enforce", "observe"]).await;
    let https = stack.https(server.listening().await);
    for _ in 0..4 {
        let sent = (0..100).map(|_| async { https.send(get(&[])).await.status });
        for status in futures_util::future::join_all(sent).await {
            assert_eq!(status, 200);
        }
    }
    let log = server.whole_log().await;
    let lines = log.lines().filter(|line| line.contains("let through by"));
    assert!(lines.count() < 400, "{log}");
    assert!(log.contains("requests=400"), "{log}");
}
