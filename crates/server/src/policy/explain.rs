//! `--explain`: the decision about a request that nobody has sent.

use std::str::FromStr;

use common::bearer::{AccessRule, Allow, RefusedBy, Rules, Verdict};
use http::Method;
use process::cli;
use spiffe::SpiffeId;

/// A request to explain: `GET /orders spiffe://example.org/client`, or without the caller.
#[derive(Clone, Debug)]
pub struct Question {
    method: Method,
    path: String,
    caller: Option<SpiffeId>,
}

/// The answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) is_allowed: bool,
    pub(super) text: String,
}

const EXPECTED: &str = "expected a method, a path and the caller's SPIFFE ID, for example 'GET /orders spiffe://example.org/client', or no ID for a request without a token";

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let (Some(method), Some(target), caller, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(EXPECTED.to_owned());
        };
        let path = target.split('?').next().unwrap_or_default();
        if !path.starts_with('/') && path != "*" {
            return Err(format!("{path:?} is not a path; {EXPECTED}"));
        }
        Ok(Self {
            method: method.parse().map_err(|_| EXPECTED.to_owned())?,
            path: path.to_owned(),
            caller: caller.map(cli::workload_id).transpose()?,
        })
    }
}

impl Question {
    /// Returns what the rules decide. `audiences` are those of the service; an empty list stands for its
    /// SPIFFE ID.
    pub(super) fn answer(&self, rules: &Rules, audiences: &[String]) -> Answer {
        let Self {
            method,
            path,
            caller,
        } = self;
        let (is_allowed, text) = match rules.verdict(method, path, caller.as_ref()) {
            Verdict::Public(rule) => (true, format!("{} makes it public", name(rule))),
            Verdict::Allowed(rule) => {
                let audiences = asked_for(rule.audiences(audiences));
                let name = name(rule);
                (
                    true,
                    format!("{name} allows the caller, whose token must have {audiences}"),
                )
            }
            Verdict::Refused(rule) => match caller {
                Some(caller) => (false, format!("{caller} {}", rule.refused_by())),
                None => (false, format!("{} asks for a token", name(rule))),
            },
            Verdict::NoRule => (false, format!("no rule matches {method} {path}")),
        };
        let word = if is_allowed { "allowed" } else { "refused" };
        let text = format!("{word}: {text}");
        Answer { is_allowed, text }
    }
}

/// Returns the name of a rule, or the flag that it stands for.
fn name(rule: &AccessRule) -> String {
    match (&rule.name, rule.allow().map(Allow::refused_by)) {
        (Some(name), _) => name.to_string(),
        (None, Some(RefusedBy::MembersOf(trust_domain))) => {
            format!("the default for workloads of {trust_domain}")
        }
        (None, _) => "--allow".to_owned(),
    }
}

/// Returns the audiences in words.
fn asked_for(audiences: &[String]) -> String {
    match audiences {
        [] => "the server's SPIFFE ID as its audience".to_owned(),
        [one] => format!("the audience {one}"),
        several => format!("one of the audiences {}", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use process::policy::PolicyFile;

    use super::*;

    const FILE: &str = r#"
[[rule]]
name = "health"
paths = ["/healthz"]
public = true
[[rule]]
paths = ["/admin/**"]
callers = ["spiffe://example.org/admin"]
audiences = ["a", "b"]
[[rule]]
name = "orders"
methods = ["GET"]
paths = ["/orders"]
callers = ["spiffe://example.org/client"]
"#;

    #[test]
    fn the_rule_that_decides_is_named_u024() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), FILE).unwrap();
        let (_, rules) = PolicyFile::open(file.path()).unwrap();
        for (question, audiences, expected) in [
            (
                "GET /healthz",
                &[] as &[&str],
                "allowed: rule \"health\" makes it public",
            ),
            (
                "GET /healthz?x=1 spiffe://example.org/client",
                &[],
                "allowed: rule \"health\" makes it public",
            ),
            (
                "PUT /admin/x spiffe://example.org/admin",
                &["c"],
                "allowed: the rule in line 6 allows the caller, whose token must have one of the audiences a, b",
            ),
            (
                "PUT /admin/x",
                &[],
                "refused: the rule in line 6 asks for a token",
            ),
            (
                "PUT /admin/x spiffe://example.org/client",
                &[],
                "refused: spiffe://example.org/client is not a caller of the rule in line 6",
            ),
            (
                "GET /orders spiffe://example.org/client",
                &["c"],
                "allowed: rule \"orders\" allows the caller, whose token must have the audience c",
            ),
            (
                "GET /orders spiffe://example.org/client",
                &[],
                "allowed: rule \"orders\" allows the caller, whose token must have the server's SPIFFE ID as its audience",
            ),
            (
                "PUT /orders spiffe://example.org/client",
                &[],
                "refused: no rule matches PUT /orders",
            ),
            ("OPTIONS *", &[], "refused: no rule matches OPTIONS *"),
        ] {
            let audiences: Vec<_> = audiences.iter().map(ToString::to_string).collect();
            let answer = question
                .parse::<Question>()
                .unwrap()
                .answer(&rules, &audiences);
            assert_eq!(answer.text, expected, "{question}");
            assert_eq!(
                answer.is_allowed,
                expected.starts_with("allowed"),
                "{question}"
            );
        }
    }

    #[test]
    fn a_question_that_is_not_about_a_request_is_refused_with_an_example() {
        for text in [
            "",
            "GET",
            "GET orders",
            "GET /orders client",
            "GET /orders spiffe://example.org",
            "GET /orders spiffe://example.org/client more",
            "G@T /orders",
        ] {
            let error = text.parse::<Question>().unwrap_err();
            assert!(error.contains("for example"), "{text}: {error}");
        }
    }
}
