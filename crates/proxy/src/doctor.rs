//! `--doctor`: tries each step that the proxy needs, on its callers' side and on its upstream's.

use std::process::ExitCode;

use common::workload::X509Source;
use forward::outbound::{Security, Upstream};
use process::{
    doctor::{Doctor, listening, upstream, workload},
    listen::{Inherited, ListenAddress},
};

use crate::config::Config;

/// Tries each step, and prints a verdict for each.
///
/// # Errors
/// Fails when the verdicts can't be printed.
pub(crate) async fn run(
    config: &Config,
    upstream: &Upstream,
    inherited: Inherited,
) -> anyhow::Result<ExitCode> {
    let mut doctor = Doctor::new("proxy", &config.doctor);
    let address = ListenAddress::from(config.listen);
    let flag = address.of_flag("--listen");
    listening::address(&mut doctor, &config.serve, inherited, flag);
    let files = config.upstream.open_files(config.serve.cores());
    listening::open_files(&mut doctor, &config.serve, &[files]);
    let security = match identity(&mut doctor, config).await {
        Ok(x509) => Ok(Security::from(config.upstream.tls(&x509)?)),
        Err(needs) => Err(needs),
    };
    let expected = Some(&config.upstream.upstream_id);
    upstream::walk(&mut doctor, upstream, expected, &security).await;
    doctor.finish()
}

/// Tries the steps of the Workload API. Returns the X.509 source, or the name of what is missing for it.
async fn identity(doctor: &mut Doctor, config: &Config) -> Result<X509Source, &'static str> {
    let api = workload::once(&config.identity, config.serve.startup_timeout);
    let x509 = listening::identity(doctor, &api, &config.identity).await?;
    let domain = config.upstream.upstream_id.trust_domain();
    workload::x509_bundles(doctor, &x509, [domain]);
    Ok(x509)
}
