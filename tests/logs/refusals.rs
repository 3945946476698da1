use std::collections::{BTreeMap, BTreeSet};

use common::{label::Label, reason::Reason};
use http::{Method, Request};
use http_body_util::Full;
use hyper::body::Bytes;
use serve::reason::ConnectionReason;

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    https::{Https, get},
    process::{Process, free_ports},
    raw,
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn each_code_has_a_paragraph_with_cause_and_remedy_and_each_paragraph_a_code() {
    let page = include_str!("../../deploy/refusals.md");
    let mut paragraphs = BTreeMap::new();
    for section in page.split("\n### `").skip(1) {
        let (code, text) = section.split_once("`\n").unwrap();
        let text = text.split("\n## ").next().unwrap();
        assert!(
            paragraphs.insert(code, text).is_none(),
            "{code} is there twice"
        );
        for part in ["**Cause:**", "**Confirm:**", "**Remedy:**"] {
            assert_eq!(text.matches(part).count(), 1, "{code}: {part}");
        }
    }
    let of_requests = Reason::ALL.iter().map(|one| one.as_str());
    let of_connections = ConnectionReason::ALL.iter().map(|one| one.as_str());
    let codes: BTreeSet<_> = of_requests.chain(of_connections).collect();
    assert_eq!(codes, paragraphs.into_keys().collect());
}

/// Sends a request, and asserts that a log line has `reason` and the status of the answer.
async fn assert_reason(
    https: &Https,
    process: &Process,
    mut request: Request<Full<Bytes>>,
    reason: Reason,
) {
    let parent = PARENT.parse().unwrap();
    request.headers_mut().insert("traceparent", parent);
    let status = https.send(request).await.status.as_u16();
    assert_logged(process, status, reason).await;
}

async fn assert_logged(process: &Process, status: u16, reason: Reason) {
    let code = format!("reason={reason}");
    let line = process.logged(&format!("status={status} {code}")).await;
    assert!(line.split(' ').any(|word| word == code), "{line}");
    assert!(line.contains(" peer="), "{line}");
    let [_, trace, span, _] = PARENT.split('-').collect::<Vec<_>>()[..] else {
        panic!("four parts");
    };
    let ids = format!(" trace_id={trace} span_id={span}");
    assert!(line.contains(&ids), "{line}");
}

fn request(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(fields);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request
}

#[tokio::test]
async fn server_logs_the_code_of_each_fault_of_a_token() {
    let stack = Stack::new().await;
    let args = ["--max-token-lifetime", "1h", "--allow", CLIENT_ID];
    let server = stack.server(&args).await;
    let https = stack.https(server.listening().await);
    let token = |name: &str, value: serde_json::Value| {
        stack.token(|jwt| {
            let part = match name {
                "typ" | "kid" => &mut jwt.header,
                _ => &mut jwt.payload,
            };
            part[name] = value;
        })
    };
    let good = stack.token(|_| ());
    let (rest, _) = good.rsplit_once('.').unwrap();
    for (token, reason) in [
        (String::new(), Reason::Malformed),
        ("a".repeat(8 * 1024), Reason::TooLong),
        ("a".to_owned(), Reason::Unparsable),
        (token("typ", "at+jwt".into()), Reason::TokenType),
        (
            ["eyJhbGciOiJub25lIn0", rest.split_once('.').unwrap().1, "x"].join("."),
            Reason::Algorithm,
        ),
        (token("kid", "".into()), Reason::NoKeyId),
        (token("kid", "other".into()), Reason::UnknownKey),
        (token("sub", "client".into()), Reason::Subject),
        (
            token("sub", "spiffe://other.example/a".into()),
            Reason::UnknownTrustDomain,
        ),
        (format!("{rest}.{}", "A".repeat(86)), Reason::Signature),
        (token("exp", 1.into()), Reason::Expired),
        (token("nbf", 9_999_999_999_u64.into()), Reason::NotYetValid),
        (token("exp", 9_999_999_999_u64.into()), Reason::Lifetime),
        (token("aud", "other".into()), Reason::Audience),
        (token("sub", SERVER_ID.into()), Reason::NotAllowed),
    ] {
        let bearer = format!("Bearer {token}");
        let request = get(&[("authorization", &bearer)]);
        assert_reason(&https, &server, request, reason).await;
    }
    assert_reason(&https, &server, get(&[]), Reason::NoToken).await;
}

#[tokio::test]
async fn proxy_logs_the_code_of_each_request_that_it_answers_itself() {
    let stack = Stack::new().await;
    let args = ["--max-body", "9", "--path", "/"];
    let [nowhere] = free_ports();
    let proxy = stack.proxy(nowhere, &args).await;
    let https = stack.https(proxy.listening().await);
    let long = format!("/{}", "a".repeat(9000));
    let large = "a".repeat(33 * 1024);
    let post = |body: &'static str| request(Method::POST, "/", &[]).map(|_| Full::from(body));
    for (request, reason) in [
        (get(&[]), Reason::UpstreamConnect),
        (request(Method::GET, "/other", &[]), Reason::NotFound),
        (request(Method::TRACE, "/", &[]), Reason::Method),
        (get(&[("expect", "else")]), Reason::Expectation),
        (
            request(Method::OPTIONS, "/", &[("max-forwards", "0")]),
            Reason::OwnHop,
        ),
        (
            get(&[("authorization", "a"), ("authorization", "b")]),
            Reason::MalformedRequest,
        ),
        (request(Method::GET, &long, &[]), Reason::TargetTooLong),
        (get(&[("a", &large)]), Reason::HeadTooLarge),
        (post("0123456789"), Reason::BodyTooLarge),
    ] {
        assert_reason(&https, &proxy, request, reason).await;
    }
}

#[tokio::test]
async fn listening_client_logs_the_code_of_each_request_that_it_answers_itself() {
    let stack = Stack::new().await;
    let [nowhere] = free_ports();
    let route =
        format!("orders=https://localhost:{nowhere};audience={SERVER_ID};server-id={SERVER_ID}");
    let args = ["--listen", "127.0.0.1:0", "--route", &route];
    let client = stack.spawn("client", &args);
    let https = Https::plain(client.listening().await);
    for (fields, reason) in [
        ("Host: other", Reason::NoRoute),
        ("Host: orders\r\nAuthorization: a", Reason::OwnAuthorization),
        ("Host: orders", Reason::UpstreamConnect),
        ("Host: a\r\nHost: b", Reason::MalformedRequest),
    ] {
        let bytes = format!("GET / HTTP/1.1\r\n{fields}\r\ntraceparent: {PARENT}\r\n\r\n");
        let answer = raw::Client::sending(&https, bytes).await.answer().await;
        assert_logged(&client, answer.unwrap().status(), reason).await;
    }
}
