//! The texts of changes, which are bounded because a response may have thousands of trust domains and
//! keys.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use humantime::{format_duration, format_rfc3339_seconds};
use spiffe::TrustDomain;
use tracing::{error, warn};

use super::{
    domains::{Change, NewFault},
    x509::{Trust, X509Svid},
};
use crate::{jwt_bundle::JwtBundle, sanitize::Sanitized};

/// The most trust domains, keys or faults that one line lists.
const MAX_LISTED: usize = 8;

/// Describes an X.509-SVID that came.
pub(super) fn svid(svid: &X509Svid) -> String {
    let expiry = format_rfc3339_seconds(svid.expiry());
    format!("X.509-SVID {} until {expiry}", svid.serial())
}

/// Describes changed X.509 bundles.
pub(super) fn x509(changes: &[Change<Trust>]) -> Option<String> {
    listed("X.509", changes, |change| {
        let authorities = |one: &Option<Arc<Trust>>| match one {
            Some(trust) => trust.bundle.authorities().to_vec(),
            None => Vec::new(),
        };
        let (before, after) = (authorities(&change.before), authorities(&change.after));
        let added = after.iter().filter(|one| !before.contains(one)).count();
        let removed = before.iter().filter(|one| !after.contains(one)).count();
        match change.before {
            None => format!("authorities: {added}"),
            Some(_) => format!(
                "authorities: {}, {added} new, {removed} removed",
                after.len()
            ),
        }
    })
}

/// Describes changed JWT bundles.
pub(super) fn jwt(changes: &[Change<JwtBundle>]) -> Option<String> {
    listed("JWT", changes, |change| {
        let keys = |one: &Option<Arc<JwtBundle>>| -> Vec<String> {
            let bundle = one.as_deref();
            let keys = bundle.into_iter().flat_map(JwtBundle::key_ids);
            keys.map(str::to_owned).collect()
        };
        let (before, after) = (keys(&change.before), keys(&change.after));
        let new = after.iter().filter(|one| !before.contains(one));
        let gone = before.iter().filter(|one| !after.contains(one));
        let new = ids(new.map(String::as_str));
        match change.before {
            None => format!("keys: {new}"),
            Some(_) => format!(
                "keys added: {new}; removed: {}",
                ids(gone.map(String::as_str))
            ),
        }
    })
}

fn listed<T>(
    kind: &str,
    changes: &[Change<T>],
    words: impl Fn(&Change<T>) -> String,
) -> Option<String> {
    if changes.is_empty() {
        return None;
    }
    let one = |change: &Change<T>| {
        let words = match (&change.before, &change.after) {
            (Some(_), None) => "not trusted any more".to_owned(),
            _ => words(change),
        };
        format!("{} ({words})", change.domain)
    };
    let listed: Vec<_> = changes.iter().take(MAX_LISTED).map(one).collect();
    let more = and_more(changes.len());
    Some(format!("{kind} bundle of {}{more}", listed.join(", ")))
}

/// Returns the IDs of keys.
fn ids<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> String {
    let listed: Vec<_> = ids.clone().take(MAX_LISTED).map(Sanitized).collect();
    let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
    if listed.is_empty() {
        "none".to_owned()
    } else {
        listed.join(", ") + &and_more(ids.count())
    }
}

fn and_more(count: usize) -> String {
    match count.saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// Warns of the keys that came and cannot be used.
pub(super) fn unusable_keys(changes: &[Change<JwtBundle>]) {
    let mut logged = 0;
    for change in changes {
        let known: Vec<_> = match &change.before {
            Some(before) => before.faults().map(|(name, _)| name).collect(),
            None => Vec::new(),
        };
        let faults = change.after.iter().flat_map(|after| after.faults());
        for (key, fault) in faults.filter(|(name, _)| !known.contains(name)) {
            logged += 1;
            if logged <= MAX_LISTED {
                let trust_domain = &change.domain;
                warn!(
                    %trust_domain, key,
                    "the JWT bundle has a key that cannot be used: {fault}; tokens by it are refused"
                );
            }
        }
    }
    if logged > MAX_LISTED {
        let more = logged - MAX_LISTED;
        warn!("the JWT bundles have {more} more keys that cannot be used");
    }
}

/// Reports trust domains whose bundle cannot be used.
pub(super) fn faults(kind: &str, faults: &[NewFault], grace: Duration) {
    let grace = format_duration(grace);
    for fault in faults.iter().take(MAX_LISTED) {
        let effect = if fault.is_trusted {
            format!("continuing with the last good one, for {grace} at most")
        } else {
            "there is no earlier one, so nothing of this trust domain is trusted".to_owned()
        };
        let (trust_domain, text) = (Sanitized(&fault.name), &fault.text);
        error!(%trust_domain, "the {kind} bundle can't be used: {text}; {effect}");
    }
    if faults.len() > MAX_LISTED {
        let more = faults.len() - MAX_LISTED;
        error!("{more} more {kind} bundles can't be used");
    }
}

/// Reports trust domains whose bundle can be used again.
pub(super) fn mended(kind: &str, domains: &[TrustDomain]) {
    for trust_domain in domains.iter().take(MAX_LISTED) {
        warn!(%trust_domain, "the {kind} bundle can be used again");
    }
    if domains.len() > MAX_LISTED {
        warn!(
            "{} more {kind} bundles can be used again",
            domains.len() - MAX_LISTED
        );
    }
}

/// Returns the time from `now` to `end` in whole seconds, for people.
pub(super) fn left(end: SystemTime, now: SystemTime) -> String {
    let left = end.duration_since(now).unwrap_or_default();
    format_duration(Duration::from_secs(left.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(kids: &[&str]) -> Arc<JwtBundle> {
        let key = |kid: &&str| {
            format!(
                r#"{{"kty":"EC","crv":"P-256","kid":"{kid}","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}}"#
            )
        };
        let keys: Vec<_> = kids.iter().map(key).collect();
        let document = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        Arc::new(JwtBundle::parse(document.as_bytes()).unwrap())
    }

    fn change(before: Option<&[&str]>, after: Option<&[&str]>) -> Change<JwtBundle> {
        Change {
            domain: TrustDomain::new("example.org").unwrap(),
            before: before.map(bundle),
            after: after.map(bundle),
        }
    }

    #[test]
    fn line_names_the_trust_domain_and_the_keys_that_changed() {
        for (before, after, text) in [
            (
                None,
                Some(&["a"] as &[&str]),
                "JWT bundle of example.org (keys: a)",
            ),
            (
                Some(&["a", "b"] as &[&str]),
                Some(&["b", "c"]),
                "JWT bundle of example.org (keys added: c; removed: a)",
            ),
            (
                Some(&["a"]),
                None,
                "JWT bundle of example.org (not trusted any more)",
            ),
        ] {
            assert_eq!(jwt(&[change(before, after)]).as_deref(), Some(text));
        }
        assert_eq!(jwt(&[]), None);
    }

    #[test]
    fn line_is_bounded_however_many_changes_there_are() {
        let kids: Vec<_> = (0..1000).map(|n| format!("key {n}")).collect();
        let kids: Vec<_> = kids.iter().map(String::as_str).collect();
        let changes: Vec<_> = (0..100).map(|_| change(None, Some(&kids[..20]))).collect();
        let text = jwt(&changes).unwrap();
        assert!(
            text.ends_with("and 92 more") && text.contains("and 12 more"),
            "{text}"
        );
        assert!(text.len() < 2000, "{}", text.len());
    }
}
