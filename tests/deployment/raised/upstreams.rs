use harness::{
    Stack,
    admin::{ADMIN, Admin},
    https::get,
    metrics::Page,
    process::free_ports,
    prometheus::Prometheus,
};

use super::MINUTE;

#[tokio::test]
async fn endpoint_that_is_down_is_raised_and_an_upstream_without_another_is_gone() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let [dead] = free_ports();
    let args = [&ADMIN[..], &["--cores", "1"]].concat();
    let both = [server.listening().await, dead];
    let partly = stack.proxy_before(&both, &args).await;
    let wholly = stack.proxy_before(&[dead], &args).await;
    let admins = [Admin::of(&partly).await, Admin::of(&wholly).await];
    let Some(prometheus) = Prometheus::start(&[&admins[0], &admins[1]], MINUTE).await else {
        return;
    };
    let https = [
        stack.https(partly.listening().await),
        stack.https(wholly.listening().await),
    ];
    let token = stack.bearer();
    let ask = async || {
        for https in &https {
            https.send(get(&[("authorization", &token)])).await;
        }
    };

    let of = |admin: &Admin| [("instance", admin.address().to_owned())];
    for (alert, admin) in [
        ("SpiffeUpstreamEjected", &admins[0]),
        ("SpiffeUpstreamGone", &admins[1]),
    ] {
        let labels = of(admin);
        let labels = labels
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        prometheus.fires(alert, &labels, ask).await;
    }
    prometheus
        .fires("SpiffeServerErrors", &[("role", "proxy")], ask)
        .await;
    let endpoint = format!("upstream/https://127.0.0.1:{dead}/");
    for (admin, process, state) in [
        (&admins[0], "degraded", "degraded"),
        (&admins[1], "not ready", "lost"),
    ] {
        // The endpoint may be tried again between a request and the query of `/ready`.
        let condition = harness::wait::until_some(async || {
            ask().await;
            let (_, report) = admin.ready().await;
            let condition = harness::admin::condition(&report, &endpoint)?;
            (report["status"] == process && condition["state"] == state).then_some(condition)
        });
        let condition = condition.await;
        let reason = condition["reason"].as_str().unwrap();
        assert!(reason.starts_with("ejected, tried again in "), "{reason}");
    }
    let line = wholly.logged("reason=upstream_connect").await;
    assert!(line.contains("onnection refused"), "{line}");
    let page = Page::of(&admins[1]).await;
    assert!(page.at("spiffe_refusals_total{reason=\"upstream_connect\"}") >= 1.0);
    assert!(page.at("spiffe_requests_total{code=\"502\"}") >= 1.0);
    assert!(page.at("spiffe_upstream_ejections_total") >= 1.0);
}
