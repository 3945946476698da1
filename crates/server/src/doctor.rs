//! `--doctor`: tries each step that the server needs: its address, policy, identity, bundles and application.

use std::process::ExitCode;

use common::{
    bearer::{Enforcement, Pattern, Rules},
    workload::X509Source,
};
use forward::outbound::Security;
use process::{
    cli,
    doctor::{Doctor, Finding, Kind, Trouble, listening, upstream, workload},
    listen::{Inherited, ListenAddress, ListenFlag},
};
use spiffe::{SpiffeId, TrustDomain};

use crate::config::Config;

/// Tries each step, and prints a verdict for each.
///
/// # Errors
/// Fails when the verdicts can't be printed.
pub(crate) async fn run(config: &Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let limits = config.serve.limits();
    let upstream = config.application.upstream(limits.stream_idle_timeout);
    let checked = upstream.and_then(|upstream| Ok((upstream, config.ext_authz.address()?)));
    let (upstream, checks) = match checked {
        Ok(checked) => checked,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    let address = ListenAddress::from(config.listen);
    let is_server = checks.is_none();
    let flag = checks.unwrap_or_else(|| address.of_flag("--listen"));
    if let Err(error) = config.serve.check(Some(flag), is_server) {
        return cli::usage_error::<Config>(&error);
    }
    let mut doctor = Doctor::new("server", &config.doctor);
    listen(&mut doctor, config, inherited, flag);
    let rules = policy(&mut doctor, config);
    let x509 = identity(&mut doctor, config, rules.as_ref()).await;
    if let Some(application) = &upstream {
        let security = security(config, x509);
        let expected = config.application.upstream_id.as_ref();
        upstream::walk(&mut doctor, application, expected, &security).await;
    }
    doctor.finish()
}

/// Tries to claim the address, and compares the open files with the flags.
fn listen(doctor: &mut Doctor, config: &Config, inherited: Inherited, flag: ListenFlag<'_>) {
    listening::address(doctor, &config.serve, inherited, flag);
    let files = config.application.open_files(config.serve.cores());
    listening::open_files(doctor, &config.serve, files.as_slice());
}

/// Reads the policy. Returns the rules of its file, if there is one that can be used.
fn policy(doctor: &mut Doctor, config: &Config) -> Option<Rules> {
    let read = config.policy.open();
    let (file, finding) = match read {
        Err(error) => {
            let remedy = "correct the file: server --check-policy FILE says when it is good";
            (
                None,
                Finding::Failed(Trouble::new("--policy", error, remedy)),
            )
        }
        Ok(Some((file, rules))) => {
            let text = format!("{}: {} rules", file.path().display(), rules.len());
            (Some(rules), Finding::Ok(text))
        }
        Ok(None) => (None, Finding::Ok(config.policy.described())),
    };
    let finding = match (finding, config.policy.enforcement()) {
        (Finding::Ok(text), Enforcement::Observe) => Finding::Warning(Trouble::new(
            text,
            "no request is refused (--enforce observe)",
            "--enforce on, once the log has no refusals that should not be",
        )),
        (finding, _) => finding,
    };
    doctor.note("policy", Kind::File, finding);
    file
}

/// Tries the steps of the Workload API. Returns the X.509 source.
async fn identity(
    doctor: &mut Doctor,
    config: &Config,
    rules: Option<&Rules>,
) -> Result<X509Source, &'static str> {
    let api = workload::once(&config.identity, config.serve.startup_timeout);
    let x509 = match listening::identity(doctor, &api, &config.identity).await {
        Ok(x509) => x509,
        Err(needs) => {
            doctor.not_tried("jwt-bundles", Kind::Bundles, needs);
            return Err(needs);
        }
    };
    let application = config.application.upstream_id.iter();
    let application = application.map(SpiffeId::trust_domain);
    let peers = config.peers.iter().map(Pattern::trust_domain);
    workload::x509_bundles(doctor, &x509, peers.chain(application));
    let own = x509.svid().ok().map(|svid| svid.spiffe_id().clone());
    let callers = callers(config, rules, own.as_ref());
    workload::jwt_bundles(doctor, &api, &callers, true).await;
    Ok(x509)
}

/// Returns the trust domains of the callers that the policy allows.
fn callers(config: &Config, rules: Option<&Rules>, own: Option<&SpiffeId>) -> Vec<TrustDomain> {
    let rules = match (rules, own) {
        (Some(rules), _) => rules.clone(),
        (None, Some(own)) => config.policy.rules(own.trust_domain()),
        (None, None) => return Vec::new(),
    };
    rules.trust_domains().cloned().collect()
}

/// Returns the security of connections to the application, or the step that it needs.
fn security(
    config: &Config,
    x509: Result<X509Source, &'static str>,
) -> Result<Security, &'static str> {
    match (x509, &config.application.upstream_id) {
        (Ok(x509), _) => Ok(config.application.security(&x509)),
        (Err(_), None) => Ok(Security::Plaintext),
        (Err(needs), Some(_)) => Err(needs),
    }
}
