//! Each rule for a token, applied by the functions of the verification and in its order.

use std::time::{Duration, SystemTime};

use humantime::format_duration;
use spiffe::{BundleSource, SpiffeId};

use super::{
    Times, Validator, check_expiry, check_lifetime, check_not_before, claims, seconds, signer,
    subject, token::Token,
};
use crate::{
    bearer::{ExplainedRule, Outcome, TokenFault},
    jwt_bundle::JwtBundle,
    sanitize::Sanitized,
};

/// The rules that come after the form of a token.
const AFTER_FORM: [&str; 7] = [
    "subject",
    "audience",
    "exp",
    "nbf",
    "lifetime",
    "bundle",
    "signature",
];

impl<B: BundleSource<Item = JwtBundle>> Validator<B>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Applies each rule of [`Self::verify`]. Returns the verdicts, and the subject if it is a SPIFFE ID.
    pub(in crate::bearer) fn explain(
        &self,
        text: &str,
        audience: impl FnOnce(&[String]) -> Result<(), TokenFault>,
        times: Times,
        now: SystemTime,
    ) -> (Vec<ExplainedRule>, Option<SpiffeId>) {
        let token = match Token::read(text) {
            Ok(token) => token,
            Err(fault) => {
                let form = ExplainedRule::new("form", Outcome::Refused(fault.into()));
                let others =
                    AFTER_FORM.map(|name| ExplainedRule::new(name, Outcome::NotTried("form")));
                return (std::iter::once(form).chain(others).collect(), None);
            }
        };
        let text = "header and claims are those of a JWT-SVID";
        let mut rules = vec![ExplainedRule::met("form", text)];
        let id = match subject(&token.claims.subject) {
            Ok(id) => {
                rules.push(ExplainedRule::met("subject", id.to_string()));
                Some(id)
            }
            Err(fault) => {
                rules.push(ExplainedRule::new(
                    "subject",
                    Outcome::Refused(fault.into()),
                ));
                None
            }
        };
        let text = "the token has an audience that is accepted";
        let checked = audience(&token.claims.audiences);
        rules.push(ExplainedRule::of("audience", checked, text));
        rules.extend(explain_times(&token, times, now));
        rules.extend(self.explain_signature(&token, id.as_ref()));
        (rules, id)
    }

    fn explain_signature(&self, token: &Token<'_>, id: Option<&SpiffeId>) -> [ExplainedRule; 2] {
        let Some(domain) = id.map(SpiffeId::trust_domain) else {
            return ["bundle", "signature"]
                .map(|name| ExplainedRule::new(name, Outcome::NotTried("subject")));
        };
        let bundle = match self.bundle(domain) {
            Ok(bundle) => bundle,
            Err(refusal) => {
                return [
                    ExplainedRule::new("bundle", Outcome::Refused(refusal)),
                    ExplainedRule::new("signature", Outcome::NotTried("bundle")),
                ];
            }
        };
        let signature = match signer(&token.jws, &bundle, domain) {
            Ok(key) => {
                let key_id = bundle.id_of(key).unwrap_or_default();
                Outcome::Met(format!("made by key {:?} of {domain}", Sanitized(key_id)))
            }
            Err(fault) => Outcome::Refused(fault.into()),
        };
        [
            ExplainedRule::met("bundle", format!("there is one for {domain}")),
            ExplainedRule::new("signature", signature),
        ]
    }
}

fn explain_times(token: &Token<'_>, times: Times, now: SystemTime) -> [ExplainedRule; 3] {
    let now = match seconds(now) {
        Ok(now) => now,
        Err(refusal) => {
            return [
                ExplainedRule::new("exp", Outcome::Refused(refusal)),
                ExplainedRule::new("nbf", Outcome::NotTried("exp")),
                ExplainedRule::new("lifetime", Outcome::NotTried("exp")),
            ];
        }
    };
    let expiry = ExplainedRule::of("exp", check_expiry(token, times, now), "it has not expired");
    let text = match token.claims.not_before {
        Some(_) => "its time has come",
        None => "there is none",
    };
    let not_before = ExplainedRule::of("nbf", check_not_before(token, times, now), text);
    let lifetime = match times.max_lifetime {
        None => ExplainedRule::met("lifetime", "there is no limit"),
        Some(max) => {
            let issued_at = claims::issued_at(&token.jws.payload).ok().flatten();
            let life = token.claims.expiry as f64 - issued_at.map_or(now, |time| time.min(now));
            let life = Duration::try_from_secs_f64(life.round()).unwrap_or_default();
            let text = format!(
                "{} of at most {}",
                format_duration(life),
                format_duration(max)
            );
            ExplainedRule::of("lifetime", check_lifetime(token, max, now), text)
        }
    };
    [expiry, not_before, lifetime]
}
