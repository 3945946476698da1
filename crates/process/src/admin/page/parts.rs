//! The sections of the status page. Templates escape everything that they show.

use std::time::{Duration, SystemTime};

use common::{
    certificate::CertificateFacts,
    throttle::RefusedRequest,
    workload::{Authority, Kind, Overview},
};
use maud::{Markup, html};
use spiffe::TrustDomain;

use super::times::{duration, since};
use crate::admin::conditions::{Condition, Report};

/// The most trust domains, and keys of each, that are shown.
const MAX_DOMAINS: usize = 20;
const MAX_KEYS: usize = 20;

pub(super) fn conditions(report: &Report) -> Markup {
    let times = |condition: &Condition| {
        let left = condition.left(report.now);
        let since = condition.since.map(|then| since(then, report.now));
        html! {
            @if let Some(left) = left { div { (duration(left)) " left" } }
            @if let Some(since) = since { div { "for " (duration(since)) } }
        }
    };
    html! {
        section {
            h2 { "Conditions" }
            table {
                thead { tr { th { "State" } th { "Condition" } th { "Reason" } th { "Time" } } }
                tbody {
                    @for one in &report.conditions {
                        tr {
                            td { span class=(format!("state {}", one.state)) { (one.state) } }
                            td class="name" { (one.name) }
                            td { (one.reason) }
                            td class="time" { (times(one)) }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the identity that the process presents.
pub(super) fn identity(overview: &Overview, now: SystemTime) -> Markup {
    let id = overview.svid().map(|svid| svid.spiffe_id().to_string());
    let chain = overview.chain();
    html! {
        section {
            h2 { "Identity" }
            @match &id {
                Some(id) => p class="id" { (id) },
                None => p { "This process has no X.509-SVID." },
            }
            @for (index, certificate) in chain.iter().enumerate() {
                (link(index, certificate, now))
            }
        }
    }
}

/// Returns a certificate of the chain, with its lifetime as a bar.
fn link(index: usize, certificate: &CertificateFacts, now: SystemTime) -> Markup {
    let CertificateFacts {
        subject,
        issuer,
        serial,
        from,
        until,
    } = certificate;
    let kind = match index {
        0 => "X.509-SVID",
        _ => "Intermediate certificate",
    };
    html! {
        article {
            h3 { (kind) }
            (bar(*from, *until, now))
            dl {
                dt { "serial" } dd class="id" { (serial) }
                dt { "valid from" } dd { (time(*from)) }
                dt { "expires" } dd { (time(*until)) }
                @if !subject.is_empty() { dt { "subject" } dd { (subject) } }
                dt { "issuer" } dd { (issuer) }
            }
        }
    }
}

/// Returns the part of a life that is over, as a bar with words.
fn bar(from: SystemTime, until: SystemTime, now: SystemTime) -> Markup {
    let percent = percent(from, until, now);
    let left = until.duration_since(now).ok();
    let words = match left {
        Some(left) => format!(
            "{} of {} left",
            duration(left),
            duration(since(from, until))
        ),
        None => format!("expired {} ago", duration(since(until, now))),
    };
    let grade = match percent {
        100 => "lost",
        67.. => "degraded",
        _ => "met",
    };
    html! {
        p class="bar" {
            svg class=(grade) role="img" aria-label=(format!("{percent} % of the life is over"))
                viewBox="0 0 100 8" preserveAspectRatio="none" {
                rect class="whole" width="100" height="8" {}
                rect class="part" width=(percent) height="8" {}
            }
            (words)
        }
    }
}

/// Returns how much of the time from `from` to `until` is over, in whole percent.
pub(super) fn percent(from: SystemTime, until: SystemTime, now: SystemTime) -> u64 {
    let whole = since(from, until).as_secs().max(1);
    let part = since(from, now).as_secs().min(whole);
    part * 100 / whole
}

/// Returns the trust domains and their authorities.
pub(super) fn trust(overview: &Overview, now: SystemTime) -> Markup {
    let kinds = [
        (Kind::X509, "X.509 authorities"),
        (Kind::Jwt, "JWT authorities"),
    ];
    html! {
        section {
            h2 { "Trust domains" }
            @for (kind, title) in kinds {
                @match overview.trusted(kind) {
                    Ok(domains) if domains.is_empty() => {},
                    Ok(domains) => {
                        h3 { (title) }
                        @for domain in domains.iter().take(MAX_DOMAINS) {
                            (authorities(overview, kind, domain, now))
                        }
                        (more(domains.len(), MAX_DOMAINS, "trust domains"))
                    },
                    Err(reason) => {
                        h3 { (title) }
                        p class="fault" { (reason) }
                    },
                }
            }
            @for fault in overview.faults.iter().take(MAX_DOMAINS) {
                p class="fault" {
                    "The " (if fault.kind == Kind::X509 { "X.509" } else { "JWT" }) " bundle of "
                    (fault.trust_domain) " can't be used for " (duration(since(fault.since, now)))
                    ": " (fault.reason)
                }
            }
        }
    }
}

fn authorities(overview: &Overview, kind: Kind, domain: &TrustDomain, now: SystemTime) -> Markup {
    let authorities = overview.authorities(kind, domain);
    let is_own = overview.own.as_ref() == Some(domain);
    let times = |one: &Authority| {
        let since = one
            .since
            .map(|then| format!("here for {}", duration(since(then, now))));
        let left = one
            .expiry
            .map(|end| end.duration_since(now).unwrap_or(Duration::ZERO));
        let left = left.map(|left| format!("expires in {}", duration(left)));
        since.into_iter().chain(left).collect::<Vec<_>>().join(", ")
    };
    html! {
        article {
            h4 { (domain) @if is_own { " (own)" } }
            ul {
                @for one in authorities.iter().take(MAX_KEYS) {
                    li { span class="id" { (one.name) } " " span class="time" { (times(one)) } }
                }
            }
            @if authorities.is_empty() { p { "It has no key, so that nothing of it is verified." } }
            (more(authorities.len(), MAX_KEYS, "keys"))
        }
    }
}

fn more(count: usize, max: usize, what: &str) -> Markup {
    let more = count.saturating_sub(max);
    html! { @if more > 0 { p { "and " (more) " more " (what) } } }
}

pub(super) fn listeners(listeners: &[(String, String)]) -> Markup {
    html! {
        section {
            h2 { "Listeners" }
            dl {
                @for (peers, addresses) in listeners {
                    dt { (peers) } dd class="id" { (addresses) }
                }
            }
        }
    }
}

/// Returns the last requests that were not served.
pub(super) fn refused(refused: &[RefusedRequest], now: SystemTime) -> Markup {
    html! {
        section {
            h2 { "Requests not served" }
            @if refused.is_empty() {
                p { "None." }
            } @else {
                p class="about" {
                    "The last " (refused.len()) " that have a log line, by reason "
                    "(deploy/refusals.md explains each). A claimed caller may be a false one."
                }
                table {
                    thead {
                        tr { th { "When" } th { "Reason" } th { "Caller" } th { "Request and fault" } }
                    }
                    tbody { @for one in refused { (refusal(one, now)) } }
                }
            }
        }
    }
}

fn refusal(one: &RefusedRequest, now: SystemTime) -> Markup {
    html! {
        tr {
            td class="time" { (duration(since(one.at, now))) " ago" }
            td { span class="reason" { (one.reason) } " " (one.status.as_u16()) }
            td class="caller" {
                @if let Some(claimed) = &one.claimed { div class="id" { (claimed) } }
                div class="time" { (one.peer) }
            }
            td {
                @if let Some(request) = &one.request { div class="id" { (request) } }
                div { (one.fault) }
            }
        }
    }
}

/// Returns the last changes of the identity.
pub(super) fn changes(changes: &[(SystemTime, String)], now: SystemTime) -> Markup {
    html! {
        section {
            h2 { "Identity changes" }
            table {
                tbody {
                    @for (at, change) in changes {
                        tr {
                            td class="time" { (duration(since(*at, now))) " ago" }
                            td { (change) }
                        }
                    }
                }
            }
        }
    }
}

/// Returns a time in UTC.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time)
        .to_string()
        .replace('T', " ")
        .replace('Z', " UTC")
}
