//! One fetch of a bundle: an HTTPS GET, and its redirects (SPIFFE Federation §5.2).

use std::{sync::Arc, time::Duration};

use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    FederatedBundle, MAX_DOCUMENT,
    partner::{Authentication, Partner, parse_url},
    verify,
};
use crate::state::State;

/// The longest time of a fetch, from the look-up of the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 3;

/// Fetches the bundle of a partner from its endpoint.
///
/// # Errors
/// Fails with the reason why the endpoint gave no bundle.
pub(super) async fn fetch(state: &State, partner: &Partner) -> Result<FederatedBundle, String> {
    let fetched = timeout(DEADLINE, document(state, partner)).await;
    let document = fetched.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")))?;
    let domain = partner.trust_domain().clone();
    FederatedBundle::parse(domain, &document).map_err(|error| error.to_string())
}

/// Gets the document. Each fetch begins at the URL of the configuration.
async fn document(state: &State, partner: &Partner) -> Result<String, String> {
    let config = match &partner.authentication {
        // The current keys are used, because the endpoint's trust domain rotates too.
        Authentication::Spiffe(id) => {
            Arc::new(verify::by_id(id, state.authorities(id.trust_domain()))?)
        }
        Authentication::Web(config) => Arc::clone(config),
    };
    let mut url = partner.url().clone();
    for _ in 0..=MAX_REDIRECTS {
        match get(&url, Arc::clone(&config)).await? {
            Answer::Document(document) => return Ok(document),
            Answer::Redirect(to) => url = to,
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects"))
}

enum Answer {
    Document(String),
    Redirect(Uri),
}

async fn get(url: &Uri, config: Arc<ClientConfig>) -> Result<Answer, String> {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(443);
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| "the host in the URL is not a name".to_owned())?;
    let connecting = TlsConnector::from(config).connect(name, stream).await;
    let stream = connecting.map_err(|error| format!("TLS: {error}"))?;

    let http = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // The connection ends when this is dropped.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let response = sender.send_request(request(url)?).await.map_err(http)?;
    answer(url, response).await
}

fn request(url: &Uri) -> Result<Request<Empty<Bytes>>, String> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(|error| error.to_string())
}

/// Reads an answer, at most as much as a bundle has.
async fn answer(url: &Uri, response: Response<Incoming>) -> Result<Answer, String> {
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        return redirect(url, location.unwrap_or_default()).map(Answer::Redirect);
    }
    if status != http::StatusCode::OK {
        return Err(format!("it answered {status}"));
    }
    let body = Limited::new(response.into_body(), MAX_DOCUMENT);
    let body = body.collect().await;
    let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?;
    let document = String::from_utf8(body.to_bytes().into());
    document
        .map(Answer::Document)
        .map_err(|_| "the document is not UTF-8".to_owned())
}

/// Returns the URL of a redirect, which is a whole URL or a path.
fn redirect(from: &Uri, location: &str) -> Result<Uri, String> {
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let to = if location.starts_with('/') && !location.starts_with("//") {
        format!("https://{authority}{location}")
    } else {
        location.to_owned()
    };
    parse_url(&to).map_err(|reason| format!("redirect: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_leads_to_another_https_url_only_f010() {
        let from: Uri = "https://b.test:8443/bundle?x".parse().unwrap();
        for (location, to) in [
            ("/elsewhere", Some("https://b.test:8443/elsewhere")),
            ("https://c.test/bundle", Some("https://c.test/bundle")),
            ("http://c.test/bundle", None),
            ("https://me@c.test/", None),
            ("//c.test/bundle", None),
            ("elsewhere", None),
            ("", None),
        ] {
            let got = redirect(&from, location);
            assert_eq!(
                got.ok().map(|url| url.to_string()).as_deref(),
                to,
                "{location}"
            );
        }
    }
}
