//! The client of the scenario. It fetches a JWT-SVID, verifies the SPIFFE ID of the server, makes
//! one request with the token, and prints the response. It can repeat the request and print the
//! outcomes.
//!
//! - [`config`]: flags and environment, typed
//! - `authorize`: the token in the request
//! - `output`: standard output and standard error
//! - `repeat`: one request after another; `tally`: counts and times of their outcomes

mod authorize;
pub mod config;
mod output;
mod repeat;
mod tally;

use std::process::ExitCode;

use anyhow::anyhow;
use common::tls;
use forward::outbound::Client;
use process::cli;
use tokio::time::{Instant, timeout_at};

use crate::{
    authorize::authorize,
    config::{Config, Print},
};

/// Makes the requests or prints what the flags say. Returns success if every status was 2xx, or if
/// the output was printed.
///
/// # Errors
/// Never fails. A failure is one line on standard error, and exit status 1.
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
    config.warn(&x509);
    if config.print() == Some(Print::Bundle) {
        let bundles = x509.bundle_set()?;
        return output::bundle(&bundles, config.server_id.trust_domain());
    }
    let token = timeout_at(
        deadline,
        workload_api.fetch_jwt_svid(&config.audiences(), None),
    )
    .await
    .map_err(|_| late("the Workload API issued no token"))??;
    if config.print() == Some(Print::Token) {
        return output::token(&token);
    }
    let client = Client::new(
        config.upstream(),
        tls::client(&x509, &config.server_id)?.into(),
    );
    let exchange = async {
        let response = client.request(authorize(request, &token)?).await?;
        output::response(response, config.include).await
    };
    timeout_at(deadline, exchange)
        .await
        .map_err(|_| late(&format!("no complete answer from {}", config.url)))?
}
