//! Repeated requests, to watch a rotation or an outage. Each request prints a line, and a summary
//! comes last.

use std::{
    io::{self, ErrorKind},
    pin::pin,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use common::{sanitize::on_a_line, workload::tokens::TokenSource};
use forward::outbound::Client;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use process::{admin::Admin, runtime::Cores, signal};
use serve::shutdown::Shutdown;
use spiffe::JwtSvid;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::{
    authorize::authorize,
    challenge::refuses_token,
    config::{Config, Pace, ROLE},
    identity, output,
    tally::Tally,
};

/// The parts that all requests share: connections, token and the request itself.
struct Session {
    client: Client<Full<Bytes>>,
    tokens: TokenSource,
    request: Request<Full<Bytes>>,
    max_time: Duration,
}

/// The outcome of a request that was answered.
struct Outcome {
    status: StatusCode,
    /// True if the server refused the token as invalid (RFC 6750 §3.1).
    token_refused: bool,
    /// True if the request was made again with a new token, after its first one was refused.
    renewed: bool,
}

/// Makes requests at `pace` until they are done, a signal arrives, or standard output is closed.
/// Returns success if there was at least one request and every status was 2xx.
pub(crate) async fn run(
    config: &Config,
    pace: Pace,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<ExitCode> {
    config.peer().check_roots()?;
    let shutdown = signal::shutdown().context("cannot listen to signals")?;
    let admin = config
        .listening
        .serve
        .claim_admin()?
        .listen(&Cores::default(), &shutdown)?;
    admin.metrics().role(ROLE);
    let mut tally = Tally::new(Instant::now());
    let printed = match requests(config, pace, request, shutdown, &admin, &mut tally).await? {
        Ok(()) => output::line(tally.summary(Instant::now())).await,
        failed => failed,
    };
    match printed {
        // A reader such as `head` closes the pipe early.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ if tally.all_succeeded() => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// Makes the requests. The outer error is one of the start, the inner one of standard output.
async fn requests(
    config: &Config,
    pace: Pace,
    request: Request<Full<Bytes>>,
    shutdown: Shutdown,
    admin: &Admin,
    tally: &mut Tally,
) -> anyhow::Result<io::Result<()>> {
    let mut stop = pin!(shutdown.requested());
    let session = tokio::select! {
        biased;
        () = &mut stop => return Ok(Ok(())),
        session = Session::start(config, request, admin) => session?,
    };
    admin.serves(format!("making requests to {}", config.url_without_query()));
    let mut ticks = interval(pace.every);
    // A slow request does not shift the times of the following ones.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut left = pace.requests;
    while left != Some(0) {
        let next = async {
            ticks.tick().await;
            session.one(tally).await
        };
        let line = tokio::select! {
            biased;
            () = &mut stop => break,
            line = next => line,
        };
        // A stop does not interrupt the line, because it comes before the summary.
        if let Err(error) = output::line(line).await {
            return Ok(Err(error));
        }
        left = left.map(|left| left - 1);
    }
    Ok(Ok(()))
}

impl Session {
    /// Fetches the bundles, and starts to fetch the token.
    async fn start(
        config: &Config,
        request: Request<Full<Bytes>>,
        admin: &Admin,
    ) -> anyhow::Result<Self> {
        let workload_api = config.identity.workload_api(config.max_time);
        let workload_api = workload_api.monitored(admin.follow_identity());
        let x509 = identity::bundles(config, &workload_api).await?;
        config.warn();
        let (upstream, peer) = (config.upstream(), config.peer());
        peer.warn_of_missing_bundle(x509.as_ref(), "--server-id");
        let security = peer.security(x509.as_ref())?;
        let audiences = config.audiences();
        let tokens = TokenSource::new(workload_api, audiences.clone(), None);
        admin.follow_token(None, &audiences, tokens.monitor());
        admin.follow_upstream(None, upstream.status().clone());
        admin.metrics().upstreams([&upstream]);
        Ok(Self {
            client: Client::new(upstream, security),
            tokens,
            request,
            max_time: config.max_time,
        })
    }

    /// Makes one request and counts it. Returns its line.
    async fn one(&self, tally: &mut Tally) -> String {
        let (time, began) = (SystemTime::now(), Instant::now());
        let answer = self.exchange(began + self.max_time).await;
        let status = answer.as_ref().ok().map(|answer| answer.status);
        let took = began.elapsed();
        tally.count(status, took, began + took);
        line(time, took, &answer)
    }

    /// Makes one request before `deadline`.
    async fn exchange(&self, deadline: Instant) -> anyhow::Result<Outcome> {
        match timeout_at(deadline, self.authorized_exchange(deadline)).await {
            Ok(answer) => answer,
            Err(_) => anyhow::bail!("not done within {:?} (--max-time)", self.max_time),
        }
    }

    /// Makes one request, and makes it again if its token is refused and there is another token
    /// before `deadline`. A request whose token was refused was not processed.
    async fn authorized_exchange(&self, deadline: Instant) -> anyhow::Result<Outcome> {
        let token = self.tokens.token().await?;
        let answer = self.send(&token).await?;
        if !answer.token_refused {
            return Ok(answer);
        }
        match timeout_at(deadline, self.tokens.renewed(&token)).await {
            Ok(Some(fresh)) => Ok(Outcome {
                renewed: true,
                ..self.send(&fresh).await?
            }),
            _ => Ok(answer),
        }
    }

    /// Sends the request, and reads the response to its end.
    async fn send(&self, token: &JwtSvid) -> anyhow::Result<Outcome> {
        let request = authorize(self.request.clone(), token)?;
        let (head, mut body) = self.client.request(request).await?.into_parts();
        while let Some(frame) = body.frame().await {
            frame.context("the response broke off")?;
        }
        Ok(Outcome {
            status: head.status,
            token_refused: refuses_token(head.status, &head.headers),
            renewed: false,
        })
    }
}

/// Returns the line of a request: the time of day in UTC, the status or the failure, and the
/// duration.
fn line(time: SystemTime, took: Duration, answer: &anyhow::Result<Outcome>) -> String {
    let time = time_of_day(time);
    let ms = took.as_secs_f64() * 1000.0;
    match answer {
        Ok(answer) => {
            let renewed = if answer.renewed {
                ", with a new token after 401"
            } else {
                ""
            };
            format!("{time} {} {ms:.1} ms{renewed}", answer.status.as_u16())
        }
        Err(error) => {
            let reason = on_a_line(&format!("{error:#}"));
            format!("{time} failed {ms:.1} ms: {reason}")
        }
    }
}

/// Returns the time of day in UTC, as it is in the log.
fn time_of_day(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs() % (24 * 60 * 60), since.subsec_millis());
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_outcome_and_duration() {
        let time = UNIX_EPOCH + Duration::from_millis(1_800_000_000_042);
        let took = Duration::from_micros(1849);
        let answer = |status, renewed| {
            Ok(Outcome {
                status,
                token_refused: false,
                renewed,
            })
        };
        for (answer, text) in [
            (answer(StatusCode::OK, false), "08:00:00.042Z 200 1.8 ms"),
            (
                answer(StatusCode::OK, true),
                "08:00:00.042Z 200 1.8 ms, with a new token after 401",
            ),
            (
                answer(StatusCode::BAD_GATEWAY, false),
                "08:00:00.042Z 502 1.8 ms",
            ),
            (
                Err(anyhow::anyhow!("b\nc").context("a")),
                "08:00:00.042Z failed 1.8 ms: a: b\\nc",
            ),
        ] {
            assert_eq!(line(time, took, &answer), text);
        }
    }
}
