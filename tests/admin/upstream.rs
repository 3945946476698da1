use harness::{
    Stack,
    admin::{ADMIN, Admin, condition},
    https::get,
    process::free_ports,
    wait::until_some,
};
use serde_json::Value;

/// Returns the names of conditions that begin with `upstream`, with their states.
fn states(report: &Value) -> Vec<(String, String)> {
    let conditions = report["conditions"].as_array().unwrap().iter();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all = conditions.map(|one| (text(one, "name"), text(one, "state")));
    all.filter(|(name, _)| name.starts_with("upstream"))
        .collect()
}

#[tokio::test]
async fn endpoint_that_is_down_is_degraded_next_to_another_and_503_alone_until_it_is_back() {
    let stack = Stack::new().await;
    let [dead] = free_ports();
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let proxy = stack
        .proxy_before(&[port, dead], &[&ADMIN[..], &["--cores", "1"]].concat())
        .await;
    let admin = Admin::of(&proxy).await;
    let name = |port: u16| format!("upstream/https://127.0.0.1:{port}/");
    // The admin listener answers before the core runs that has the endpoints.
    admin.becomes("ready", &name(dead), "met").await;
    let (_, report) = admin.ready().await;
    let mut names = [name(port), name(dead)].map(|name| (name, "met".to_owned()));
    names.sort();
    assert_eq!(states(&report), names);
    assert_eq!(report["status"], "ready");

    let https = stack.https(proxy.listening().await);
    let token = stack.bearer();
    let ask = async || https.send(get(&[("authorization", &token)])).await.status;
    // The first request may have met the dead endpoint, and the second one tries the other.
    for _ in 0..2 {
        assert_eq!(ask().await, 200);
    }
    // The endpoint may be tried again between a request and the query of `/ready`.
    let (status, report, ejected) = until_some(async || {
        assert_eq!(ask().await, 200);
        let (status, report) = admin.ready().await;
        let ejected = condition(&report, &name(dead))?;
        (ejected["state"] == "degraded").then_some((status, report, ejected))
    })
    .await;
    assert_eq!((status, &report["status"]), (200, &"degraded".into()));
    let reason = ejected["reason"].as_str().unwrap();
    assert!(reason.starts_with("ejected, tried again in "), "{reason}");
    let condition = condition(&report, &name(port)).unwrap();
    assert_eq!(condition["state"], "met");
    let reason = condition["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("connected, open connections: 1"),
        "{reason}"
    );

    server.stop().await;
    let (status, _) = loop {
        assert_ne!(ask().await, 200);
        let (status, report) = admin.ready().await;
        if report["status"] == "not ready" {
            break (status, report);
        }
    };
    assert_eq!(status, 503);

    let again = stack.server_again(port).await;
    let (status, _) = loop {
        let answered = ask().await;
        let (status, report) = admin.ready().await;
        if answered == 200 && report["status"] != "not ready" {
            break (status, report);
        }
    };
    assert_eq!(status, 200);
    again.stop().await;
}

#[tokio::test]
async fn name_without_an_address_is_503_after_the_first_request() {
    let stack = Stack::new().await;
    let upstream = ["--upstream", "https://no-such-host.invalid:1"];
    // A resolver that does not answer takes longer than the default.
    let patient = ["--connect-timeout", "30s"];
    let flags = [["--listen", "127.0.0.1:0"], upstream, patient].concat();
    let (proxy, admin) = stack.spawn_with_admin("proxy", &flags).await;
    let https = stack.https(proxy.listening().await);
    let (status, _) = admin.becomes("ready", "upstream", "met").await;
    assert_eq!(status, 200);
    assert_eq!(https.send(get(&[])).await.status, 502);
    let (status, condition) = admin.becomes("not ready", "upstream", "lost").await;
    assert_eq!(status, 503);
    let reason = condition["reason"].as_str().unwrap();
    assert!(reason.contains("no-such-host.invalid"), "{reason}");
}

#[tokio::test]
async fn application_that_is_down_is_503() {
    let stack = Stack::new().await;
    let [dead] = free_ports();
    let url = format!("http://127.0.0.1:{dead}");
    let (server, admin) = stack.server_with_admin(&["--upstream", &url]).await;
    let https = stack.https(server.listening().await);
    let token = stack.bearer();
    // The endpoint may be tried again between the request and the query of `/ready`.
    let (status, report) = loop {
        assert_eq!(
            https.send(get(&[("authorization", &token)])).await.status,
            502
        );
        let (status, report) = admin.ready().await;
        if status != 200 {
            break (status, report);
        }
    };
    assert_eq!(status, 503);
    let lost = condition(&report, &format!("upstream/{url}/")).unwrap();
    assert_eq!(lost["state"], "lost");
}
