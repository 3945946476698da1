//! The paths of the admin listener, and their answers.

use std::time::Duration;

use common::sanitize::Sanitized;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use tokio::time::timeout;
use tracing::warn;

use super::{
    conditions::Conditions,
    guard, media,
    metrics::Metrics,
    page::{self, Shown},
    ready,
};
use crate::{
    runtime::Cores,
    telemetry::{LiveFilter, MAX_FILTER},
};

/// The longest time for a core to answer.
const PING: Duration = Duration::from_secs(1);

/// The longest time for the body of a request.
const BODY: Duration = Duration::from_secs(5);

/// The fields of every answer. An answer is about one moment, so it is not stored, and no browser may take it for
/// a script.
const FIELDS: [(HeaderName, HeaderValue); 3] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
];

/// The Content Security Policy of the page, which has no script and loads nothing from other origins.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// The paths, and what they are for.
const PATHS: [(&str, &str); 5] = [
    ("/", "the status of the process, for browsers"),
    ("/live", "200 while the cores answer"),
    ("/ready", "200 or 503, with each condition; JSON by Accept"),
    ("/metrics", "metrics in Prometheus' text format"),
    ("/log", "the log filter; PUT replaces it"),
];

pub(super) type Answer = Response<Full<Bytes>>;

/// Answers requests to the admin listener.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) conditions: Conditions,
    pub(super) cores: Cores,
    pub(super) metrics: Metrics,
    pub(super) shown: Shown,
    /// The names of the listener apart from addresses and `localhost`. `None` stands for any name, on a Unix
    /// socket, which no page in a browser can reach.
    pub(super) names: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A process on this machine.
    Local,
    /// Another machine.
    Remote,
}

impl Router {
    pub(super) async fn answer<B>(&self, request: Request<B>, sender: Sender) -> Answer
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (head, body) = request.into_parts();
        let checked = match &self.names {
            Some(names) => guard::check(&head, names),
            None => Ok(()),
        };
        if let Err((status, denied)) = checked {
            return text(status, denied);
        }
        let is_put = head.method == Method::PUT;
        let is_get = head.method == Method::GET || head.method == Method::HEAD;
        match head.uri.path() {
            "/log" if is_put => match sender {
                Sender::Local => set_log(body).await,
                Sender::Remote => text(
                    StatusCode::FORBIDDEN,
                    "the log filter changes only for processes on this machine\n",
                ),
            },
            "/log" if !is_get => not_allowed("GET, HEAD, PUT"),
            "/" | "/live" | "/metrics" | "/ready" | page::STYLE_PATH if !is_get => {
                not_allowed("GET, HEAD")
            }
            "/" => self.page(&head),
            page::STYLE_PATH => answer(StatusCode::OK, CSS, page::STYLE),
            "/live" => self.live().await,
            "/metrics" => answer(StatusCode::OK, METRICS, self.metrics.text()),
            "/ready" => self.ready(&head),
            "/log" => log(),
            _ => text(StatusCode::NOT_FOUND, paths()),
        }
    }

    fn page(&self, head: &Parts) -> Answer {
        if !media::prefers_html(&head.headers) {
            return text(StatusCode::OK, paths());
        }
        let refreshes = head.uri.query() != Some(page::NO_REFRESH);
        let page = page::render(
            &self.conditions.report(),
            &self.shown,
            &PATHS[1..],
            refreshes,
        );
        let mut page = answer(StatusCode::OK, HTML, page);
        let headers = page.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
        page
    }

    async fn live(&self) -> Answer {
        let silent = self.cores.silent(PING).await;
        if silent.is_empty() {
            return text(StatusCode::OK, "live\n");
        }
        let silent = silent.join(", ");
        let seconds = PING.as_secs();
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no answer within {seconds} s: {silent}\n"),
        )
    }

    fn ready(&self, head: &Parts) -> Answer {
        let report = self.conditions.report();
        let status = ready::status(&report);
        if media::prefers_json(&head.headers) {
            answer(status, JSON, format!("{}\n", ready::json(&report)))
        } else {
            text(status, ready::text(&report))
        }
    }
}

fn paths() -> String {
    let lines = PATHS.map(|(path, text)| format!("{path:<8}  {text}\n"));
    lines.concat()
}

fn log() -> Answer {
    match LiveFilter::current() {
        Some(filter) => text(StatusCode::OK, format!("{filter}\n")),
        None => text(StatusCode::NOT_FOUND, "this process has no log\n"),
    }
}

/// Replaces the log filter with the one in a body.
async fn set_log<B>(body: B) -> Answer
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let rejected = |reason: &str| text(StatusCode::BAD_REQUEST, format!("{reason}\n"));
    let body = Box::pin(Limited::new(body, MAX_FILTER).collect());
    let body = match timeout(BODY, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return rejected(&format!("the body can't be read: {error}")),
        Err(_) => {
            return text(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not come in time\n",
            );
        }
    };
    let Ok(filter) = std::str::from_utf8(&body) else {
        return rejected("the body is not text");
    };
    match LiveFilter::current().map(|current| current.replace(filter)) {
        Some(Ok(())) => {
            // Most filters let a warning through.
            warn!(filter = %Sanitized(filter.trim()), "the log filter is replaced");
            log()
        }
        Some(Err(reason)) => rejected(&Sanitized(&reason).to_string()),
        None => log(),
    }
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("methods of this path: {allowed}\n"),
    );
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, TEXT, text)
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.extend(FIELDS);
    response
}
