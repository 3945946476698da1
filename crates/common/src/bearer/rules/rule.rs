//! One rule of the policy.

use http::Method;
use spiffe::SpiffeId;

use super::name::RuleName;
use crate::{
    bearer::allow::{Allow, RefusedBy},
    path::PathPattern,
};

/// A rule, which decides about the requests that it matches.
#[derive(Clone, Debug)]
pub struct AccessRule {
    /// The name that log lines have; `None` for the rule that flags describe.
    pub name: Option<RuleName>,
    /// The methods that the rule matches. An empty list matches every method.
    pub methods: Vec<Method>,
    /// The paths that the rule matches. An empty list matches every path, also one that no pattern
    /// matches.
    pub paths: Vec<PathPattern>,
    /// The requests that are let through.
    pub access: Access,
}

/// The requests that a rule lets through, among those that it matches.
#[derive(Clone, Debug)]
pub enum Access {
    /// The rule lets all of them through. No token is read, and no caller is known.
    Public,
    /// The rule lets the requests of some callers through.
    Callers {
        /// The callers that are allowed.
        allow: Allow,
        /// The audiences of which a token must have one. An empty list stands for
        /// [`Policy::audiences`](crate::bearer::Policy::audiences).
        audiences: Vec<String>,
    },
}

impl AccessRule {
    /// Returns a rule without a name that decides about every request.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self {
            name: None,
            methods: Vec::new(),
            paths: Vec::new(),
            access,
        }
    }

    /// Returns whether the rule decides about a request, unless one before it does.
    #[must_use]
    pub fn matches(&self, method: &Method, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.contains(method))
            && (self.paths.is_empty() || self.paths.iter().any(|one| one.matches(path)))
    }

    /// Returns whether the rule matches all requests with a path of this pattern and one of the methods.
    #[must_use]
    pub fn covers(&self, path: &PathPattern, methods: &[Method]) -> bool {
        let has = |method| self.methods.contains(method);
        (self.methods.is_empty() || (!methods.is_empty() && methods.iter().all(has)))
            && (self.paths.is_empty() || self.paths.iter().any(|one| one.covers(path)))
    }

    /// Returns whether the rule lets the requests of a verified caller through.
    #[must_use]
    pub fn allows(&self, id: &SpiffeId) -> bool {
        self.allow().is_none_or(|allow| allow.allows(id))
    }

    /// Returns the callers that the rule allows; `None` if it is public.
    #[must_use]
    pub fn allow(&self) -> Option<&Allow> {
        match &self.access {
            Access::Public => None,
            Access::Callers { allow, .. } => Some(allow),
        }
    }

    /// Returns the audiences of which a token must have one, where `default` are those of the service.
    #[must_use]
    pub fn audiences<'a>(&'a self, default: &'a [String]) -> &'a [String] {
        match &self.access {
            Access::Callers { audiences, .. } if !audiences.is_empty() => audiences,
            _ => default,
        }
    }

    /// Returns what refuses a caller that the rule does not allow.
    #[must_use]
    pub fn refused_by(&self) -> RefusedBy {
        match (&self.name, self.allow()) {
            (Some(name), _) => RefusedBy::Named(name.clone()),
            (None, Some(allow)) => allow.refused_by().clone(),
            (None, None) => RefusedBy::Patterns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_covers_requests_that_it_would_all_decide_about() {
        let post = &[Method::POST][..];
        let both = &[Method::GET, Method::POST][..];
        for (rule_methods, rule_path, methods, path, expected) in [
            (&[][..], "/**", &[][..], "/**", true),
            (&[], "/**", post, "/a/**", true),
            (&[], "/a/**", &[], "/**", false),
            (&[], "/a/**", &[], "/a", false),
            (&[], "/a", &[], "/a", true),
            (&[], "/a", &[], "/a/**", false),
            (post, "/**", &[], "/a", false),
            (post, "/**", post, "/a", true),
            (post, "/**", both, "/a", false),
            (both, "/**", post, "/a", true),
        ] {
            let rule = AccessRule {
                methods: rule_methods.to_vec(),
                paths: vec![rule_path.parse().unwrap()],
                ..AccessRule::new(Access::Public)
            };
            let covers = rule.covers(&path.parse().unwrap(), methods);
            assert_eq!(
                covers, expected,
                "{rule_methods:?} {rule_path}, {methods:?} {path}"
            );
        }
    }
}
