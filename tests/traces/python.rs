use std::{path::Path, process::Stdio};

use harness::{Stack, https::get, installed::python_packages};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    collector::Collector,
    spans::{SPAN, TRACE},
};

/// Reads the messages of OpenTelemetry, in the version that the test was written with.
const PACKAGE: &str = "opentelemetry-proto==1.45.2";

/// Reads an export request, and returns it as JSON.
async fn read(packages: &Path, request: &[u8]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/read.py");
    let mut python = Command::new("python3");
    python.arg(script).env("PYTHONPATH", packages);
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reading = python.spawn().unwrap();
    let mut input = reading.stdin.take().unwrap();
    input.write_all(request).await.unwrap();
    drop(input);
    let output = reading.wait_with_output().await.unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn messages_are_those_of_opentelemetry() {
    let packages = python_packages(env!("CARGO_TARGET_TMPDIR"), &[PACKAGE]).await;
    let Some(packages) = packages else {
        return;
    };
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    let server = stack.server(&collector.flags()).await;
    let https = stack.https(server.listening().await);
    let bearer = stack.bearer();
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let fields = [("authorization", &*bearer), ("traceparent", &*parent)];
    assert_eq!(https.send(get(&fields)).await.status, 200);
    let seen = &collector.wait_for(1).await[0];
    let request = read(&packages, &collector.bodies()[0]).await;
    let of_process = &request["resource_spans"][0];
    let service = &of_process["resource"]["attributes"][0];
    assert_eq!(service["key"], "service.name");
    assert_eq!(service["value"]["string_value"], "server");
    let of_scope = &of_process["scope_spans"][0];
    assert_eq!(of_scope["scope"]["name"], "server");
    let span = &of_scope["spans"][0];
    let [_, id, _] = seen.span.ids();
    assert_eq!(span["ids"], serde_json::json!([TRACE, id, SPAN]));
    assert_eq!(
        (&span["name"], &span["kind"]),
        (&"GET".into(), &"SPAN_KIND_SERVER".into())
    );
    assert_eq!(span["start_time_unix_nano"], seen.span.begun.to_string());
    assert_eq!(span["end_time_unix_nano"], seen.span.ended.to_string());
    assert_eq!(span["flags"], 0x301);
    let attributes = span["attributes"].as_array().unwrap();
    let status = attributes
        .iter()
        .find(|one| one["key"] == "http.response.status_code");
    assert_eq!(status.unwrap()["value"]["int_value"], "200");
}
