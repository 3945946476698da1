//! Rules that say which requests are let through: the policy as a value.
//!
//! The rules have an order. The first rule whose methods and paths match a request decides about it.
//! The request is public, or the rule's callers are allowed and all others are refused. A request that
//! no rule matches is refused.

mod name;
mod rule;

use http::Method;
use spiffe::{SpiffeId, TrustDomain};

pub use self::{
    name::RuleName,
    rule::{Access, AccessRule},
};
use super::allow::Allow;

/// The rules in their order.
///
/// ```
/// use common::bearer::{Access, AccessRule, Rules, Verdict};
/// use http::Method;
/// use spiffe::SpiffeId;
///
/// let allow = [("spiffe://example.org/client").parse()?].into_iter().collect();
/// let rules = Rules::from_iter([AccessRule {
///     methods: vec![Method::GET],
///     paths: vec!["/orders/**".parse()?],
///     ..AccessRule::new(Access::Callers { allow, audiences: Vec::new() })
/// }]);
/// let client = SpiffeId::new("spiffe://example.org/client")?;
/// let verdict = |method, path| rules.verdict(&method, path, Some(&client));
/// assert!(matches!(verdict(Method::GET, "/orders/7"), Verdict::Allowed(_)));
/// assert!(matches!(verdict(Method::PUT, "/orders/7"), Verdict::NoRule));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<AccessRule>);

/// The decision about a request before its token is verified.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// The rule makes the request public.
    Public(&'a AccessRule),
    /// The rule allows the caller, if its token has one of the rule's audiences.
    Allowed(&'a AccessRule),
    /// The rule does not allow the caller, or there is none.
    Refused(&'a AccessRule),
    /// No rule matches.
    NoRule,
}

impl Rules {
    /// Returns the first rule that matches a request. `path` is compared as it was sent.
    ///
    /// CONNECT is matched as GET. A CONNECT with a path opens a WebSocket over HTTP/2 (RFC 8441 §4). The
    /// application may get it as the GET that it is over HTTP/1.1.
    #[must_use]
    pub fn deciding(&self, method: &Method, path: &str) -> Option<&AccessRule> {
        let method = match *method {
            Method::CONNECT => &Method::GET,
            _ => method,
        };
        self.0.iter().find(|rule| rule.matches(method, path))
    }

    /// Returns the decision about a request of this verified caller, or of an unknown one.
    #[must_use]
    pub fn verdict(&self, method: &Method, path: &str, caller: Option<&SpiffeId>) -> Verdict<'_> {
        let Some(rule) = self.deciding(method, path) else {
            return Verdict::NoRule;
        };
        match &rule.access {
            Access::Public => Verdict::Public(rule),
            Access::Callers { .. } if caller.is_some_and(|id| rule.allows(id)) => {
                Verdict::Allowed(rule)
            }
            Access::Callers { .. } => Verdict::Refused(rule),
        }
    }

    /// Returns the number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is no rule, so that every request is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = &AccessRule> {
        self.0.iter()
    }

    /// Returns the trust domains of the callers that are allowed, in an order of their own. A domain may
    /// occur several times.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0
            .iter()
            .filter_map(AccessRule::allow)
            .flat_map(Allow::trust_domains)
    }
}

impl FromIterator<AccessRule> for Rules {
    fn from_iter<I: IntoIterator<Item = AccessRule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

/// Allows the callers to send every request.
impl From<Allow> for Rules {
    fn from(allow: Allow) -> Self {
        let audiences = Vec::new();
        Self(vec![AccessRule::new(Access::Callers { allow, audiences })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "spiffe://example.org/client";

    fn rule(
        name: &str,
        methods: &[Method],
        paths: &[&str],
        callers: Option<&[&str]>,
    ) -> AccessRule {
        let access = match callers {
            None => Access::Public,
            Some(callers) => Access::Callers {
                allow: callers.iter().map(|text| text.parse().unwrap()).collect(),
                audiences: Vec::new(),
            },
        };
        AccessRule {
            name: Some(RuleName::given(name)),
            methods: methods.to_vec(),
            paths: paths.iter().map(|text| text.parse().unwrap()).collect(),
            access,
        }
    }

    fn rules() -> Rules {
        Rules::from_iter([
            rule("health", &[Method::GET, Method::HEAD], &["/healthz"], None),
            rule(
                "admin",
                &[],
                &["/admin/**"],
                Some(&["spiffe://example.org/admin"]),
            ),
            rule(
                "read",
                &[Method::GET],
                &["/orders", "/orders/**"],
                Some(&["spiffe://example.org/*"]),
            ),
            rule("write", &[Method::POST], &["/orders"], Some(&[CLIENT])),
            rule("rest", &[], &["/**"], Some(&["spiffe://example.org/ns/*"])),
        ])
    }

    fn described(verdict: Verdict<'_>) -> String {
        let (word, rule) = match verdict {
            Verdict::Public(rule) => ("public", rule),
            Verdict::Allowed(rule) => ("allowed", rule),
            Verdict::Refused(rule) => ("refused", rule),
            Verdict::NoRule => return "none".to_owned(),
        };
        format!("{word} {}", rule.name.as_ref().unwrap())
    }

    #[test]
    fn the_first_rule_that_matches_method_and_path_decides_u020() {
        let rules = rules();
        for (method, path, caller, expected) in [
            ("GET", "/healthz", None, "public health"),
            ("GET", "/healthz", Some(CLIENT), "public health"),
            ("HEAD", "/healthz", None, "public health"),
            ("POST", "/healthz", None, "refused rest"),
            (
                "GET",
                "/admin/x",
                Some("spiffe://example.org/admin"),
                "allowed admin",
            ),
            (
                "GET",
                "/admin/x",
                Some("spiffe://example.org/ns/a"),
                "refused admin",
            ),
            ("GET", "/admin/x", None, "refused admin"),
            ("GET", "/orders", Some(CLIENT), "allowed read"),
            ("GET", "/orders/7", Some(CLIENT), "allowed read"),
            (
                "GET",
                "/orders/7",
                Some("spiffe://partner.example/client"),
                "refused read",
            ),
            ("POST", "/orders", Some(CLIENT), "allowed write"),
            (
                "POST",
                "/orders",
                Some("spiffe://example.org/other"),
                "refused write",
            ),
            ("CONNECT", "/orders", Some(CLIENT), "allowed read"),
            (
                "CONNECT",
                "/healthz",
                Some("spiffe://example.org/ns/a"),
                "public health",
            ),
            ("POST", "/orders/7", Some(CLIENT), "refused rest"),
            (
                "POST",
                "/orders/7",
                Some("spiffe://example.org/ns/a"),
                "allowed rest",
            ),
            ("get", "/orders", Some(CLIENT), "refused rest"),
            ("GET", "/admin/../orders", Some(CLIENT), "none"),
            ("GET", "/x//y", Some("spiffe://example.org/ns/a"), "none"),
            ("OPTIONS", "*", Some("spiffe://example.org/ns/a"), "none"),
        ] {
            let method = method.parse().unwrap();
            let caller = caller.map(|id| SpiffeId::new(id).unwrap());
            let expected = match expected.split_once(' ') {
                Some((word, name)) => format!("{word} rule {name:?}"),
                None => expected.to_owned(),
            };
            let verdict = rules.verdict(&method, path, caller.as_ref());
            assert_eq!(described(verdict), expected, "{method} {path} {caller:?}");
        }
    }

    #[test]
    fn patterns_without_paths_decide_about_every_request() {
        let allow = Allow::from_iter([CLIENT.parse().unwrap()]);
        let rules = Rules::from(allow);
        let client = SpiffeId::new(CLIENT).unwrap();
        for path in ["/", "/a/../b", "*", ""] {
            let verdict = |caller| rules.verdict(&Method::DELETE, path, caller);
            assert!(
                matches!(verdict(Some(&client)), Verdict::Allowed(_)),
                "{path}"
            );
            assert!(matches!(verdict(None), Verdict::Refused(_)), "{path}");
        }
        let nothing = Rules::default();
        assert!(nothing.is_empty());
        let verdict = nothing.verdict(&Method::GET, "/", Some(&client));
        assert!(matches!(verdict, Verdict::NoRule), "default deny");
    }
}
