use harness::{
    CLIENT_ID, Stack,
    app::App,
    https::{Https, get},
    process::Process,
};
use http::{Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;

use crate::{
    collector::Collector,
    spans::{SPAN, TRACE},
};

fn sampled(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    get(&[&[("traceparent", &*parent)], fields].concat())
}

/// Sends sampled requests that are refused, and then one that is not.
async fn send_to(stack: &Stack, process: &Process) {
    let https = stack.https(process.listening().await);
    let expired = format!(
        "Bearer {}",
        stack.token(|jwt| jwt.payload["exp"] = 1.into())
    );
    for fields in [
        &[] as &[(&str, &str)],
        &[("authorization", "Bearer x")],
        &[("authorization", "x")],
        &[("authorization", &expired)],
    ] {
        assert!(https.send(sampled(fields)).await.status.is_client_error());
        call(&https, fields).await;
    }
    let good = stack.bearer();
    let answer = https.send(sampled(&[("authorization", &good)])).await;
    assert_eq!(answer.status, 200);
}

/// Sends a gRPC call, whose refusal has the status 200.
async fn call(https: &Https, fields: &[(&str, &str)]) {
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let request = sampled(&[&grpc, fields].concat());
    let answer = https.send_over(Version::HTTP_2, request).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains_key("grpc-status"));
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn server_records_verified_callers_only_u035() {
    let (stack, app, collector) = (
        Stack::new().await,
        App::start("http").await,
        Collector::start().await,
    );
    let args = ["--upstream", &app.url, "--public", "/public"];
    let args = [&collector.flags()[..], &args].concat();
    let server = stack.server(&args).await;
    let https = stack.https(server.listening().await);
    let mut public = sampled(&[]);
    *public.uri_mut() = "/public".parse().unwrap();
    assert_eq!(https.send(public).await.status, 200);
    let (head, _) = app.take_one();
    assert_eq!(
        head.headers["traceparent"],
        format!("00-{TRACE}-{SPAN}-01"),
        "a request without a span passes unchanged"
    );
    send_to(&stack, &server).await;
    let spans = collector.wait_for(1).await;
    assert_eq!(spans[0].span.text("spiffe.caller.id").unwrap(), CLIENT_ID);
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn proxy_records_requests_whose_token_the_server_accepts_only_u035() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    let mut server = stack.server(&[]).await;
    let args = [&collector.flags()[..], &["--path", "/**"]].concat();
    let proxy = stack.proxy(server.listening().await, &args).await;
    send_to(&stack, &proxy).await;
    let spans = collector.wait_for(1).await;
    let status = spans[0].span.text("http.response.status_code");
    assert_eq!(status.as_deref(), Some("200"));
    // An unverified caller can cause failures while the server is down, so that these have no span.
    server.signal(nix::sys::signal::Signal::SIGKILL);
    server.ended().await;
    let https = stack.https(proxy.listening().await);
    let good = stack.bearer();
    let answer = https.send(sampled(&[("authorization", &good)])).await;
    assert_eq!(answer.status, 502);
    let line = proxy.logged("status=502").await;
    let ids = format!("trace_id={TRACE} span_id={SPAN}");
    assert!(line.contains(&ids), "{line}");
    proxy.stop().await;
    assert_eq!(collector.spans().len(), 1);
}
