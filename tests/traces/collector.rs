//! Receives spans as a collector of OpenTelemetry does (OTLP over HTTP), with its own definitions of the messages.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use harness::{
    Stack,
    upstream::{answering, plainly_answering},
    wait::until_some,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use prost::Message;
use serve::body::{self, Body};

/// A collector that records spans.
pub(crate) struct Collector {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    bodies: Vec<Bytes>,
    answer: Answering,
}

/// The behaviour of a collector.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Answering {
    /// It takes all spans.
    #[default]
    Taking,
    /// It takes none, and answers with this status.
    Refusing(StatusCode),
    /// It takes all spans but this number.
    Rejecting(u8),
    /// It does not answer.
    Silent,
}

/// A span as the collector reads it, with the name of its service.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) service: String,
    pub(crate) span: Span,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let port = plainly_answering(taking(&state)).await;
        let url = format!("http://127.0.0.1:{port}");
        Self { url, state }
    }

    /// Starts a collector that presents the test's own certificate, which is for `localhost`.
    pub(crate) async fn behind_tls(stack: &Stack) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let port = answering(stack, &["http/1.1"], taking(&state)).await;
        let url = format!("https://localhost:{port}");
        Self { url, state }
    }

    pub(crate) fn answers(&self, answer: Answering) {
        self.state.lock().unwrap().answer = answer;
    }

    /// Returns the flags that export to it.
    pub(crate) fn flags(&self) -> [&str; 2] {
        ["--otlp-endpoint", &self.url]
    }

    /// Returns the requests that were taken.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.state.lock().unwrap().bodies.clone()
    }

    /// Returns the spans that were taken.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.bodies().into_iter().flat_map(spans).collect()
    }

    /// Waits for this number of spans, and returns them.
    pub(crate) async fn wait_for(&self, number: usize) -> Vec<Seen> {
        let spans = until_some(async || {
            let spans = self.spans();
            (spans.len() >= number).then_some(spans)
        });
        let spans = spans.await;
        assert_eq!(spans.len(), number, "{spans:#?}");
        spans
    }
}

/// Returns what answers an export.
fn taking(
    state: &Arc<Mutex<State>>,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync + use<> {
    let state = Arc::clone(state);
    move |request| {
        let state = Arc::clone(&state);
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/v1/traces");
            assert_eq!(request.method(), Method::POST);
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            answer(&state, body).await
        })
    }
}

async fn answer(state: &Mutex<State>, body: Bytes) -> Response<Body> {
    let answer = {
        let mut state = state.lock().unwrap();
        if let Answering::Taking | Answering::Rejecting(_) = state.answer {
            state.bodies.push(body);
        }
        state.answer
    };
    match answer {
        Answering::Taking => body::text(StatusCode::OK, ""),
        Answering::Refusing(status) => body::status(status),
        // partial_success { rejected_spans: number, error_message: "no" }
        Answering::Rejecting(number) => {
            let message = [0x0a, 6, 0x08, number, 0x12, 2, b'n', b'o'];
            let text = String::from_utf8(message.to_vec()).unwrap();
            body::text(StatusCode::OK, text)
        }
        Answering::Silent => std::future::pending().await,
    }
}

fn spans(body: Bytes) -> Vec<Seen> {
    let request = ExportRequest::decode(body).unwrap();
    let resources = request.resources.into_iter();
    let spans = resources.flat_map(|resource| {
        let attributes = resource.resource.unwrap().attributes;
        let service = text(&attributes, "service.name").unwrap();
        let spans = resource.scopes.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| Seen {
            service: service.clone(),
            span,
        })
    });
    spans.collect()
}

impl Span {
    /// Returns an attribute as text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        text(&self.attributes, key)
    }

    /// Returns the IDs of the trace, of the span, and of its parent, in hexadecimal.
    pub(crate) fn ids(&self) -> [String; 3] {
        [&self.trace_id, &self.span_id, &self.parent].map(|id| {
            let digits = id.iter().map(|byte| format!("{byte:02x}"));
            digits.collect()
        })
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|one| one.key == key)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        Value::String(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
    })
}

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(crate) begun: u64,
    #[prost(fixed64, tag = "8")]
    pub(crate) ended: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(crate) status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub(crate) flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "3")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3, 4")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}
