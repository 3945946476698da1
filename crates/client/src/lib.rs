//! The client of the scenario: fetches a JWT-SVID, verifies by SPIFFE ID whom it talks to, makes one
//! request with the token, and prints the answer; or many, to watch what becomes of them.
//!
//! - [`config`]: flags and environment, typed
//! - `output`: what goes to standard output and standard error
//! - `repeat`: one request after another; `tally`: what came of them

pub mod config;
mod output;
mod repeat;
mod tally;

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use common::tls;
use forward::outbound::Client;
use http::{HeaderValue, Request, header::AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Bytes;
use process::cli;
use spiffe::JwtSvid;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, Print};

/// Does what the flags say; success is a 2xx status of every request, or what was to be printed.
///
/// # Errors
/// Never: a failure is one line on standard error and exit status 1.
pub async fn start(config: Config) -> anyhow::Result<ExitCode> {
    Ok(run(config).await.unwrap_or_else(|error| {
        eprintln!("client: {error:#}");
        ExitCode::FAILURE
    }))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + config.max_time;
    let late = |what: &str| anyhow!("not done within {:?} (--max-time): {what}", config.max_time);
    let reading = tokio::task::spawn_blocking({
        let config = config.clone();
        move || config.request()
    });
    let request = timeout_at(deadline, reading)
        .await
        .map_err(|_| late("the request's body did not end"))???;
    if let Some(pace) = config.pace() {
        return repeat::run(&config, pace, request).await;
    }
    let workload_api = config.identity.workload_api(config.max_time);
    let x509 = workload_api.x509().await.map_err(cli::with_remedy)?.x509;
    if config.print() == Some(Print::Bundle) {
        let bundles = x509.bundle_set()?;
        return output::bundle(&bundles, config.server_id.trust_domain());
    }
    let token = timeout_at(
        deadline,
        workload_api.fetch_jwt_svid(&[config.audience()], None),
    )
    .await
    .map_err(|_| late("the Workload API issued no token"))??;
    if config.print() == Some(Print::Token) {
        return output::token(&token);
    }
    let client = Client::new(config.upstream(), tls::client(&x509, &config.server_id)?);
    let exchange = async {
        let response = client.request(authorized(request, &token)?).await?;
        output::response(response, config.include).await
    };
    timeout_at(deadline, exchange)
        .await
        .map_err(|_| late(&format!("no complete answer from {}", config.url)))?
}

fn authorized(
    mut request: Request<Full<Bytes>>,
    token: &JwtSvid,
) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.token()))
        .context("the token is no header value")?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(request)
}
