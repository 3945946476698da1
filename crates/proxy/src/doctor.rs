//! `--doctor`: tries each step that the proxy needs, on its callers' side and on its upstream's.

use std::{process::ExitCode, time::Duration};

use common::workload::X509Source;
use forward::outbound::{Security, Upstream};
use process::{
    doctor::{
        Doctor, Kind, listening,
        upstream::{UpstreamSteps, greet},
        workload,
    },
    listen::{Inherited, ListenAddress},
};

use crate::{config::Config, upstream_tls};

/// The longest time of each step of the Workload API.
const STEP: Duration = Duration::from_secs(10);

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
    let identity = identity(&mut doctor, config).await;
    for url in &upstream.urls {
        let several = upstream.urls.len() > 1;
        doctor.set_route(several.then(|| url.to_string()));
        let steps = UpstreamSteps {
            url,
            expected: Some(&config.upstream.upstream_id),
            flags: ["--upstream", "--upstream-id"],
            timeout: upstream.connect_timeout,
        };
        let security = match &identity {
            Ok(x509) => Ok(Security::from(upstream_tls(config, x509)?)),
            Err(needs) => Err(*needs),
        };
        let is_verified = steps.walk(&mut doctor, security.clone()).await;
        match (security, is_verified) {
            (Ok(security), true) => {
                let urls = vec![url.clone()];
                let upstream = Upstream {
                    urls,
                    ..upstream.clone()
                };
                greet(&mut doctor, upstream, security).await;
            }
            _ => doctor.not_tried("answer", Kind::Answer, "a verified upstream"),
        }
    }
    doctor.finish()
}

/// Tries the steps of the Workload API. Returns the X.509 source, or what lacks for it.
async fn identity(doctor: &mut Doctor, config: &Config) -> Result<X509Source, &'static str> {
    let limit = config.serve.startup_timeout.min(STEP);
    let api = config.identity.workload_api(limit).once();
    let x509 = listening::identity(doctor, &api, &config.identity).await?;
    let domain = config.upstream.upstream_id.trust_domain();
    workload::x509_bundles(doctor, &x509, [domain]);
    Ok(x509)
}
