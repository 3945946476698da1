//! The client of the scenario. It fetches a JWT-SVID, verifies the server, makes one request with the
//! token, and prints the response. It can repeat the request and print the outcomes, listen and do so for
//! applications, or keep a token in a file for them.
//!
//! - [`config`]: flags and environment, typed · `route`, `peer`: the upstream and its identity
//! - `confinement`: the files and ports that the flags name
//! - `web_pki`: the verification of peers by host name
//! - `listening`: requests of applications · `token_file`: a token in a file
//! - `doctor`: the steps of `--doctor` · `explain`: the rules of `--explain-token`
//! - `identity`: the token and the bundles of a run
//! - `authorize`: the token in the request · `challenge`: its refusal
//! - `output`: standard output and standard error
//! - `repeat`: one request after another; `tally`: counts and times of their outcomes

mod authorize;
mod challenge;
pub mod config;
mod confinement;
mod doctor;
mod explain;
mod identity;
mod listening;
mod output;
mod peer;
mod repeat;
mod route;
mod tally;
mod token_file;
mod web_pki;

use std::process::ExitCode;

use anyhow::anyhow;
use forward::outbound::Client;
use process::{cli, listen::Inherited};
use tokio::time::{Instant, timeout_at};

use crate::{
    authorize::authorize,
    config::{Config, Print},
};

/// Does what the flags say: makes requests, prints, listens for applications, or keeps a token in a file.
/// Returns success if every status was 2xx, if the output was printed, or after a stop.
///
/// # Errors
/// Fails when a listener or a file of a token can't start or continue. Any other failure is one line on
/// standard error, and exit status 1.
pub async fn start(config: Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    if let Err(error) = config.check_admin() {
        return cli::usage_error::<Config>(&error);
    }
    if config.explain.is_given() {
        let explained = explain::run(&config).await;
        return Ok(explained.unwrap_or_else(failed));
    }
    if config.doctor.doctor {
        return doctor::run(&config, inherited).await;
    }
    if config.listening.listen.is_some() {
        return listening::run(&config, inherited).await;
    }
    if let Some(path) = &config.token_file.token_file {
        return token_file::run(&config, path).await;
    }
    if let Err(error) = config.check_audience() {
        return cli::usage_error::<Config>(&error);
    }
    Ok(run(config).await.unwrap_or_else(failed))
}

/// Prints the reason of a failure. Returns the exit status.
fn failed(error: anyhow::Error) -> ExitCode {
    eprintln!("client: {error:#}");
    ExitCode::FAILURE
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + config.max_time;
    let late = |what: &str| anyhow!("not done within {:?} (--max-time): {what}", config.max_time);
    let reading = tokio::task::spawn_blocking({
        let config = config.clone();
        move || config.read_request()
    });
    let request = timeout_at(deadline, reading)
        .await
        .map_err(|_| late("the request's body did not end"))???;
    if let Some(pace) = config.pace() {
        return repeat::run(&config, pace, request).await;
    }
    // Each call has the time that is left, so that its own error comes before that of the whole run.
    let workload_api = || {
        let left = deadline.saturating_duration_since(Instant::now());
        config.identity.workload_api(left)
    };
    config.warn();
    if config.print() == Some(Print::Token) {
        return output::token(&identity::token(&config, &workload_api()).await?);
    }
    let peer = config.peer();
    peer.check_roots()?;
    let x509 = identity::bundles(&config, &workload_api()).await?;
    if let (Some(Print::Bundle), Some(x509)) = (config.print(), &x509) {
        let bundles = x509.bundle_set()?;
        return output::bundle(&bundles, config.server_id.trust_domain());
    }
    let token = identity::token(&config, &workload_api()).await?;
    peer.warn_of_missing_bundle(x509.as_ref(), "--server-id");
    let client = Client::new(config.upstream(), peer.security(x509.as_ref())?);
    let exchange = async {
        let response = client.request(authorize(request, &token)?).await?;
        output::response(response, config.include).await
    };
    timeout_at(deadline, exchange)
        .await
        .map_err(|_| late(&format!("no complete answer from {}", config.url)))?
}
