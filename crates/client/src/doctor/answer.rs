//! The request of `--doctor`, and what its answer says about the proxy and the server.

use std::time::{Duration, SystemTime};

use common::sanitize::Sanitized;
use forward::outbound::{Client, ResponseBody, Security, Upstream};
use http::{HeaderMap, Request, StatusCode, header, response::Parts};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use process::doctor::{Doctor, Finding, Kind, Trouble, words};
use spiffe::{JwtSvid, SpiffeId};
use tokio::time::timeout;

use crate::{authorize::authorize, challenge::refuses_token};

/// The most of the answer's body that is read.
const MAX_BODY: usize = 1 << 20;

/// The longest time for the answer's body, which may be without an end.
const BODY: Duration = Duration::from_secs(5);

/// The difference between two clocks that gets a warning. Tokens are checked without leeway.
const CLOCKS: Duration = Duration::from_secs(5);

/// The request to make.
pub(super) struct Asked<'a> {
    pub(super) token: &'a JwtSvid,
    pub(super) request: &'a Request<Full<Bytes>>,
    /// Set if the status of the answer is that of the run. Otherwise the application chooses the path.
    pub(super) is_run: bool,
    pub(super) server: Option<&'a SpiffeId>,
}

impl Asked<'_> {
    /// Makes the request, and records its outcome.
    pub(super) async fn walk(&self, doctor: &mut Doctor, upstream: Upstream, security: Security) {
        let client = Client::new(upstream, security);
        let sent = async {
            let request = authorize(self.request.clone(), self.token)?;
            anyhow::Ok(client.request(request).await?)
        };
        let response = match sent.await {
            Ok(response) => response,
            Err(error) => {
                let remedy = "look at the peer's log; its limits, or a restart, may have ended the connection";
                let trouble = Trouble::new(self.described(), format!("{error:#}"), remedy);
                doctor.failed("answer", Kind::Answer, trouble);
                return;
            }
        };
        let (head, body) = response.into_parts();
        let read = read(body).await;
        let kind = if is_refused(&head) {
            Kind::Refused
        } else {
            Kind::Answer
        };
        doctor.note("answer", kind, self.finding(&head, read));
        clock(doctor, &head.headers);
    }

    fn described(&self) -> String {
        format!(
            "{} {}",
            self.request.method(),
            Sanitized(self.request.uri().path())
        )
    }

    fn finding(&self, head: &Parts, read: Result<String, String>) -> Finding {
        let answered = format!("{}: {}{}", self.described(), head.status, by(&head.headers));
        if let Err(cause) = read {
            let remedy = "look at the logs of the server and of the proxies before it";
            return Finding::Failed(Trouble::new(answered, cause, remedy));
        }
        if head.status.is_success() {
            return Finding::Ok(format!("{answered}, {}", read.unwrap_or_default()));
        }
        let (cause, remedy) = self.explained(head);
        let trouble = Trouble::new(answered, cause, remedy);
        if self.is_run || is_refused(head) || head.status.is_server_error() {
            Finding::Failed(trouble)
        } else {
            Finding::Warning(trouble)
        }
    }

    /// Returns cause and remedy of an answer that is not a success.
    fn explained(&self, head: &Parts) -> (String, String) {
        let text = |cause: &str, remedy: &str| (cause.to_owned(), remedy.to_owned());
        match head.status {
            status if refuses_token(status, &head.headers) => self.refused(&head.headers),
            StatusCode::UNAUTHORIZED => text(
                "the server has seen no bearer token, or asks for other credentials",
                "find the hop that removes Authorization, or the server that does not take JWT-SVIDs",
            ),
            StatusCode::FORBIDDEN => (
                format!("the server knows {}, and does not allow it this request", self.token.spiffe_id()),
                "add it to the server's --allow or --policy; the server's log has the rule (Not allowed: …)".to_owned(),
            ),
            StatusCode::NOT_FOUND => text(
                "no hop has this path: a proxy and the server forward / only, unless --path says otherwise",
                "correct --url, or add the path to --path of each hop",
            ),
            StatusCode::BAD_GATEWAY => text(
                "a proxy could not reach its upstream, or could not verify it",
                "run proxy --doctor with that proxy's flags; its log has the reason",
            ),
            StatusCode::GATEWAY_TIMEOUT => text(
                "the upstream of a proxy did not connect or answer in time",
                "run proxy --doctor with that proxy's flags; its log has the reason",
            ),
            StatusCode::SERVICE_UNAVAILABLE => text(
                "a hop is overloaded, or a server has no trust bundles at present",
                "look at the log of the hop that answered, and run its --doctor",
            ),
            status if status.is_redirection() => text(
                "redirects are not followed, because the next server is another one",
                "use the URL that it leads to, with its audience",
            ),
            _ => text(
                "the application answers with this status",
                "look at the log of the server, and of the application behind it",
            ),
        }
    }

    /// Returns cause and remedy of a token that is refused. The answer itself does not tell the reason.
    fn refused(&self, headers: &HeaderMap) -> (String, String) {
        let audiences = words::list(self.token.audience());
        let cause = format!("the server refuses the token, which is for {audiences}");
        let others = match self.server {
            Some(server) if !self.token.audience().contains(&server.to_string()) => format!(
                "; a server takes its own SPIFFE ID unless --audience says otherwise, and {server} is not among these"
            ),
            Some(peer) if is_from_behind(headers) => format!(
                "; {peer} is the peer, and the server behind it takes its own SPIFFE ID unless --audience says otherwise"
            ),
            _ => String::new(),
        };
        let remedy = "compare AUDIENCE with the server's --audience and the clocks of both; the server's log has the \
                      reason (Invalid token: …)";
        (cause + &others, remedy.to_owned())
    }
}

/// Returns whether the answer refuses the token or its caller.
fn is_refused(head: &Parts) -> bool {
    matches!(
        head.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) || refuses_token(head.status, &head.headers)
}

/// Returns whether a hop behind the peer has answered. Each proxy adds itself to `Via`.
fn is_from_behind(headers: &HeaderMap) -> bool {
    headers.contains_key(header::VIA)
}

/// Returns the words for the hop that has answered.
fn by(headers: &HeaderMap) -> &'static str {
    if is_from_behind(headers) {
        " from behind the peer"
    } else {
        " from the peer itself"
    }
}

/// Reads the body to its end, for at most [`BODY`].
async fn read(mut body: ResponseBody) -> Result<String, String> {
    let mut length = 0;
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the response broke off: {error}"))?;
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > MAX_BODY {
                break;
            }
        }
        Ok(())
    };
    match timeout(BODY, reading).await {
        Ok(read) => read.map(|()| format!("{length} bytes")),
        Err(_) => Ok(format!("{length} bytes so far, and no end")),
    }
}

/// Compares the clocks, if the answer has one.
fn clock(doctor: &mut Doctor, headers: &HeaderMap) {
    let date = headers
        .get(header::DATE)
        .and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return;
    };
    let now = SystemTime::now();
    let off = match now.duration_since(theirs) {
        Ok(behind) => behind,
        Err(ahead) => ahead.duration(),
    };
    if off <= CLOCKS {
        doctor.ok(
            "clock",
            Kind::Answer,
            "the answer's Date is that of this machine",
        )
    } else {
        let tried = format!("the answer's Date is {}", words::time(theirs, now));
        let cause = "the clocks differ, and tokens are checked without leeway";
        let remedy = "synchronise both clocks (NTP)";
        doctor.warning("clock", Kind::Answer, Trouble::new(tried, cause, remedy));
    }
}
