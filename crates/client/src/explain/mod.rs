//! `--explain-token`: what a token says, and each rule that a server would apply to it.
//!
//! The rules are the server's own code: [`Authenticator`] with the server's policy.
//!
//! - [`config`]: the flags
//! - `segments`: header, claims and times as text

pub(crate) mod config;
mod segments;

use std::{
    collections::BTreeMap, convert::Infallible, fmt::Write as _, io::Write as _, process::ExitCode,
    sync::Arc, time::SystemTime,
};

use anyhow::Context;
use common::{
    bearer::{Authenticator, ExplainedRule, JwtBundle, Outcome, Refusal},
    sanitize::Sanitized,
};
use http::{HeaderValue, header::AUTHORIZATION, request};
use process::{
    cli,
    doctor::{Kind, words, workload},
};
use spiffe::{BundleSource, SpiffeId, TrustDomain};

use self::segments::Segments;
use crate::config::Config;

/// The bundles that verify the token.
#[derive(Debug)]
struct Known {
    bundles: BTreeMap<TrustDomain, Arc<JwtBundle>>,
    /// Their origin in words.
    origin: String,
}

impl BundleSource for &Known {
    type Item = JwtBundle;
    type Error = Infallible;

    fn bundle_for_trust_domain(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<JwtBundle>>, Infallible> {
        Ok(self.bundles.get(trust_domain).cloned())
    }
}

/// Explains the token, and prints the explanation.
///
/// # Errors
/// Fails when the token can't be read, or when the explanation can't be printed.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let own = config.server_id.trust_domain();
    let policy = match config.explain.policy(config.audiences(), own) {
        Ok(policy) => policy,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    let token = config.explain.read_token()?;
    let now = SystemTime::now();
    let segments = Segments::of(&token, now);
    let mut text = said(segments.as_ref());
    let subject = segments.and_then(|segments| segments.subject);
    let (known, missing) = match bundles(config, subject.as_ref()).await {
        Ok(known) => (known, false),
        Err(error) => {
            let bundles = BTreeMap::new();
            let origin = format!("none: {error:#}");
            (Known { bundles, origin }, true)
        }
    };
    let _ = writeln!(text, "bundles     {}", known.origin);
    let _ = writeln!(text, "audience    {}", policy.audiences.join(", "));
    let head = head(config, &token)?;
    let _ = writeln!(text, "request     {} {}\n", head.method, head.uri.path());
    let authenticator = Authenticator::new(&known, policy);
    let rules = authenticator.explain(&head, now);
    for rule in &rules {
        text += &line(rule, missing);
    }
    let refusal = authenticator.authenticate(&head).err();
    let (verdict, status) = verdict(refusal, &rules, missing);
    text += &verdict;
    let written = std::io::stdout().write_all(text.as_bytes());
    written.context("cannot write to standard output")?;
    Ok(status)
}

/// Returns the last line and the exit status. `refusal` is the verdict of the server.
fn verdict(refusal: Option<Refusal>, rules: &[ExplainedRule], missing: bool) -> (String, ExitCode) {
    match refusal {
        None => (
            "accepted: no rule refuses it\n".to_owned(),
            ExitCode::SUCCESS,
        ),
        Some(refusal) if missing && is_about_bundles(&refusal) => (
            "not decided: there are no bundles to verify the token with\n".to_owned(),
            ExitCode::from(Kind::Bundles as u8),
        ),
        Some(refusal) => (refused(&refusal, rules), ExitCode::FAILURE),
    }
}

/// Returns what the token itself says.
fn said(segments: Option<&Segments>) -> String {
    let Some(segments) = segments else {
        return "token       it does not have three segments, so that nothing of it is printed\n"
            .to_owned();
    };
    let mut text = format!(
        "header      {}\nclaims      {}\n",
        segments.header, segments.claims
    );
    for (name, time) in &segments.times {
        let _ = writeln!(text, "{name:<10}  {time}");
    }
    text
}

/// Returns the bundle of `--bundle`, which is for the trust domain of the token's subject, or the bundles of the
/// Workload API.
async fn bundles(config: &Config, subject: Option<&SpiffeId>) -> anyhow::Result<Known> {
    let Some(path) = &config.explain.bundle else {
        let api = workload::once(&config.identity, config.max_time);
        let source = api.jwt_bundles().await.map_err(cli::with_remedy)?;
        let bundles = source.bundles()?;
        let shown = bundles.iter().map(described);
        let origin = format!("of the Workload API: {}", words::list(shown));
        return Ok(Known { bundles, origin });
    };
    let shown = path.display();
    let document = std::fs::read(path).with_context(|| format!("--bundle {shown}"))?;
    let bundle = JwtBundle::parse(&document).with_context(|| format!("--bundle {shown}"))?;
    let domain = subject.map(|id| id.trust_domain().clone());
    let bundles: BTreeMap<_, _> = domain.into_iter().zip([Arc::new(bundle)]).collect();
    let described = bundles.iter().map(described);
    let origin = format!("{shown}, as that of {}", words::list(described));
    Ok(Known { bundles, origin })
}

fn described((domain, bundle): (&TrustDomain, &Arc<JwtBundle>)) -> String {
    let key_ids = bundle.key_ids().map(Sanitized);
    format!("{domain} (keys: {})", words::list(key_ids))
}

/// Returns the head of the request with the token.
fn head(config: &Config, token: &str) -> anyhow::Result<request::Parts> {
    let mut request = config.request();
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.context("the token has characters that no header may have")?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(request.into_parts().0)
}

/// Returns the line of a rule. With `missing` bundles, the rules about them were not tried.
fn line(rule: &ExplainedRule, missing: bool) -> String {
    let (verdict, text) = match &rule.outcome {
        Outcome::Refused(refusal) if missing && is_about_bundles(refusal) => {
            ("not tried", "it needs bundles".to_owned())
        }
        Outcome::Met(text) => ("ok", text.clone()),
        Outcome::Refused(refusal) => (
            "refused",
            format!("{refusal} (reason={})", refusal.reason()),
        ),
        Outcome::NotTried(needs) => ("not tried", format!("it needs the rule {needs}")),
    };
    format!("{verdict:<9}  {:<10}  {text}\n", rule.name)
}

/// Returns whether a refusal says that there is no bundle.
fn is_about_bundles(refusal: &Refusal) -> bool {
    use common::reason::Reason::{NoBundles, UnknownTrustDomain};
    [NoBundles, UnknownTrustDomain].contains(&refusal.reason())
}

/// Returns the last line about a token that is refused.
fn refused(refusal: &Refusal, rules: &[ExplainedRule]) -> String {
    let is_it = |rule: &&ExplainedRule| matches!(rule.outcome, Outcome::Refused(_));
    let name = rules.iter().find(is_it).map_or("header", |rule| rule.name);
    let reason = refusal.reason();
    format!(
        "refused by the rule {name} with {} (reason={reason}; deploy/refusals.md#{reason})\n",
        refusal.status()
    )
}
