//! The steps to an upstream: its name, the connection, and TLS with the identity of the peer.

use std::time::{Duration, SystemTime};

use common::certificate;
use forward::outbound::{Client, Error, Presented, Probe, Security, Target, Upstream, UpstreamUrl};
use http::Request;
use serve::body::Body;
use spiffe::SpiffeId;

use super::{Doctor, Finding, Kind, Trouble, words};

/// The most endpoints that are tried.
const MAX_ENDPOINTS: usize = 16;

/// An upstream to try.
#[derive(Clone, Debug)]
pub struct UpstreamSteps<'a> {
    /// Its URL.
    pub url: &'a UpstreamUrl,
    /// The SPIFFE ID that it must have, if that is verified.
    pub expected: Option<&'a SpiffeId>,
    /// The flag that names the URL, and the flag that gives the peer's identity.
    pub flags: [&'static str; 2],
    /// The longest time of each step.
    pub timeout: Duration,
}

impl UpstreamSteps<'_> {
    /// Tries all steps. `security` is missing if it needs `needs`, which failed. Returns whether an endpoint was
    /// reached, and verified if there is TLS.
    pub async fn walk(
        &self,
        doctor: &mut Doctor,
        security: Result<Security, &'static str>,
    ) -> bool {
        let probe = Probe::new(self.url, self.expected.cloned(), self.timeout);
        let targets = match probe.resolve().await {
            Ok(targets) => targets,
            Err(error) => {
                doctor.failed("name", Kind::Name, self.unresolved(&error));
                doctor.not_tried("tcp", Kind::Connection, "an address");
                doctor.not_tried("tls", Kind::Tls, "a connection");
                return false;
            }
        };
        let all = words::list(&targets);
        doctor.ok("name", Kind::Name, format!("{} is {all}", self.url));
        let targets = &targets[..targets.len().min(MAX_ENDPOINTS)];
        let reached = self.reach(doctor, &probe, targets).await;
        if reached.is_empty() {
            doctor.not_tried("tls", Kind::Tls, "a connection");
            return false;
        }
        match security {
            Ok(security) => self.handshake(doctor, &probe, &reached, &security).await,
            Err(needs) => {
                doctor.not_tried("tls", Kind::Tls, needs);
                false
            }
        }
    }

    /// Connects to each endpoint. Returns the endpoints that accept.
    async fn reach<'t>(
        &self,
        doctor: &mut Doctor,
        probe: &Probe,
        targets: &'t [Target],
    ) -> Vec<&'t Target> {
        let mut reached = Vec::new();
        let mut failure = None;
        let mut accepted = Vec::new();
        for target in targets {
            match probe.reach(target).await {
                Ok(address) => {
                    reached.push(target);
                    accepted
                        .push(address.map_or_else(|| target.to_string(), |one| one.to_string()));
                }
                Err(error) => failure = failure.or(Some((target, error))),
            }
        }
        let finding = match failure {
            None => Finding::Ok(format!("{} accepts", words::list(&accepted))),
            Some((target, error)) => {
                let [flag, _] = self.flags;
                let remedy = format!(
                    "start the upstream, open the port in the firewall between, or correct {flag}"
                );
                let trouble = Trouble::new(format!("connect to {target}"), error, remedy);
                if reached.is_empty() {
                    Finding::Failed(trouble)
                } else {
                    Finding::Warning(trouble)
                }
            }
        };
        doctor.note("tcp", Kind::Connection, finding);
        reached
    }

    /// Verifies each endpoint. Returns whether one was verified.
    async fn handshake(
        &self,
        doctor: &mut Doctor,
        probe: &Probe,
        targets: &[&Target],
        security: &Security,
    ) -> bool {
        let mut good = None;
        let mut failure = None;
        for target in targets {
            match probe.handshake(target, security.clone()).await {
                Ok(presented) => good = good.or(Some(presented)),
                Err(error) => failure = failure.or(Some((target, error))),
            }
        }
        let finding = match (&good, failure) {
            (Some(Some(presented)), None) => Finding::Ok(described(presented)),
            (Some(None), None) => Finding::Ok("there is no TLS to this upstream".to_owned()),
            (_, Some((target, error))) => {
                let tried = format!("verify {target}{}", self.as_expected());
                let trouble = Trouble::new(tried, &error, self.handshake_remedy(&error));
                match good {
                    None => Finding::Failed(trouble),
                    Some(_) => Finding::Warning(trouble),
                }
            }
            (None, None) => Finding::NotTried("a connection"),
        };
        doctor.note("tls", Kind::Tls, finding);
        good.is_some()
    }

    fn as_expected(&self) -> String {
        let expected = self.expected;
        expected.map_or_else(String::new, |id| format!(" as {id}"))
    }

    fn unresolved(&self, error: &Error) -> Trouble {
        let [flag, _] = self.flags;
        let remedy = format!(
            "correct the host of {flag}, or this machine's resolver (/etc/resolv.conf, /etc/hosts)"
        );
        Trouble::new(format!("look up {}", self.url), error, remedy)
    }

    fn handshake_remedy(&self, error: &Error) -> String {
        let [url, peer] = self.flags;
        match error {
            Error::Impostor { presented, .. } => format!(
                "if {presented} is the right one, say so with {peer}; otherwise {url} leads to another server"
            ),
            Error::NoBundle { .. } | Error::NoTrust(_) => {
                "see the step x509-bundles".to_owned()
            }
            Error::ConnectTimeout(..) => {
                "the endpoint accepts connections and does not answer TLS: look at its log, or correct the port"
                    .to_owned()
            }
            _ if self.expected.is_none() => format!(
                "the certificate must be for the name that {peer} gives, from a CA that --ca or the system trusts"
            ),
            _ => format!(
                "the endpoint must present an X.509-SVID that this trust domain signed and that has not expired; \
                 for a certificate of another kind see {peer}"
            ),
        }
    }
}

/// Tries the steps to each URL of `--upstream`, and a request to it. `security` is missing if it needs a step
/// that failed.
pub async fn walk(
    doctor: &mut Doctor,
    upstream: &Upstream,
    expected: Option<&SpiffeId>,
    security: &Result<Security, &'static str>,
) {
    let needs = match expected {
        Some(_) => "a verified upstream",
        None => "a connection",
    };
    for url in &upstream.urls {
        doctor.set_route((upstream.urls.len() > 1).then(|| url.to_string()));
        let steps = UpstreamSteps {
            url,
            expected,
            flags: ["--upstream", "--upstream-id"],
            timeout: upstream.timeouts.connect,
        };
        let is_reached = steps.walk(doctor, security.clone()).await;
        match security {
            Ok(security) if is_reached => {
                let only = upstream.at(vec![url.clone()]);
                greet(doctor, only, security.clone()).await;
            }
            _ => doctor.not_tried("answer", Kind::Answer, needs),
        }
    }
}

/// Sends a request without a token, and notes whether the upstream answers at all.
///
/// A server that asks for a token answers 401, which is as good here as a page.
async fn greet(doctor: &mut Doctor, upstream: Upstream, security: Security) {
    let request = Request::new(Body::empty());
    let tried = "GET / without a token";
    let sent = Client::new(upstream, security).request(request).await;
    let finding = match sent.map(|response| response.status()) {
        Ok(status) if status.is_server_error() => Finding::Warning(Trouble::new(
            tried,
            format!("it answers {status}"),
            "look at the upstream's log, and run its --doctor",
        )),
        Ok(status) => Finding::Ok(format!("{tried}: {status}")),
        Err(error) => Finding::Failed(Trouble::new(
            tried,
            error,
            "look at the upstream's log; does it speak HTTP on this port?",
        )),
    };
    doctor.note("answer", Kind::Answer, finding);
}

/// Returns the words for a peer that was verified.
fn described(presented: &Presented) -> String {
    let who = match presented.spiffe_id() {
        Ok(id) => id.to_string(),
        Err(_) => "verified by its host name".to_owned(),
    };
    let alpn = presented.alpn.as_deref().unwrap_or("no ALPN");
    let expiry = certificate::expiry(&presented.leaf);
    let until = expiry.map_or_else(String::new, |expiry| {
        format!(", until {}", words::time(expiry, SystemTime::now()))
    });
    format!("the peer is {who}; {}, {alpn}{until}", presented.version)
}
