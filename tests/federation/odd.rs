use std::sync::Arc;

use dev_agent::{Partner, PartnerProfile};
use harness::{Stack, upstream};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serve::body::Body;

use crate::{Domains, partner};

/// The SPIFFE ID of the test's own process, which is an endpoint here.
const ENDPOINT: &str = "spiffe://partner.example/test";
/// One byte more than a bundle may have.
const TOO_LONG: usize = (1 << 20) + 1;

/// Starts an endpoint of `theirs` that has their bundle at `/bundle` and other answers elsewhere.
async fn endpoint(theirs: &Stack) -> u16 {
    let bundle = theirs.agent.federation().document().to_owned();
    let real = format!("https://{}/", theirs.agent.bundle_endpoint().unwrap());
    let told = Arc::new((bundle, real));
    let answer = move |request: Request<Incoming>| {
        let told = Arc::clone(&told);
        async move { respond(request.uri().path(), &told.0, &told.1) }
    };
    upstream::answering(theirs, &["http/1.1"], answer).await
}

fn respond(path: &str, bundle: &str, real: &str) -> Response<Body> {
    let redirect = match path {
        "/bundle" => return Response::new(Body::full(bundle.to_owned())),
        "/long" => return Response::new(Body::full(" ".repeat(TOO_LONG))),
        "/there" => "/bundle",
        "/far" => "/there",
        "/loop" => "/loop",
        "/http" => "http://127.0.0.1/bundle",
        "/long-location" => &format!("http://{}", "a".repeat(100_000)),
        "/another" => real,
        _ => "",
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let location = redirect.parse().unwrap();
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[tokio::test]
async fn redirects_are_followed_to_the_same_identity_only_f010() {
    let domains = Domains::strangers().await;
    let port = endpoint(&domains.theirs).await;
    let ours = &domains.ours.agent;
    for (path, refusal) in [
        ("/bundle", None),
        ("/there", None),
        ("/far", None),
        ("/loop", Some("more than 3 redirects")),
        (
            "/http",
            Some("'http://127.0.0.1/bundle' is not an https URL"),
        ),
        (
            "/another",
            Some("it is spiffe://partner.example/spire/server and not"),
        ),
        ("/nowhere", Some("redirect: '' is not an https URL")),
        ("/long-location", Some("redirect: 'http://aaaa")),
        ("/long", Some("length limit exceeded")),
    ] {
        let profile = PartnerProfile::HttpsSpiffe {
            id: Some(ENDPOINT.to_owned()),
            bundle: Some(domains.theirs.agent.federation().document().to_owned()),
        };
        let url = format!("https://127.0.0.1:{port}{path}");
        let theirs = Partner::new(partner(), &url, profile).unwrap();
        ours.federate_with(theirs).unwrap();
        let fetched = ours.refresh(&partner()).await;
        let error = fetched.err().map(|error| error.to_string());
        // The length of a log line does not depend on the endpoint.
        assert!(error.as_ref().is_none_or(|error| error.len() < 1000));
        match (&error, refusal) {
            (None, None) => {}
            (Some(error), Some(reason)) if error.contains(reason) => {}
            _ => panic!("{path}: {error:?} and not {refusal:?}"),
        }
    }
}
