//! The rules that are in force, which may be replaced while requests are answered.

use std::{collections::BTreeSet, ops::Deref, sync::Arc};

use http::{Method, request::Parts};
use tokio::sync::watch;

use super::rules::{Access, AccessRule, RuleName, Rules};

/// The rules in force, with the audiences that a token may have.
#[derive(Debug)]
pub(super) struct InForce {
    rules: Rules,
    /// The audiences of the service, for rules without their own.
    default: Arc<[String]>,
    /// Every audience that a rule or the service names, once.
    accepted: Arc<[String]>,
}

/// The holder of the rules in force. Rules that are never replaced are read without a lock.
#[derive(Debug)]
pub(super) enum Holder {
    Fixed(InForce),
    Replaceable(watch::Receiver<Arc<InForce>>),
}

/// The rules in force at one moment, by which one request is decided.
#[derive(Debug)]
pub(super) enum Snapshot<'a> {
    Fixed(&'a InForce),
    Replaceable(Arc<InForce>),
}

/// Replaces the rules of an [`Authenticator`](super::Authenticator). Each request is decided by the old
/// rules or by the new ones, and never by some of both.
#[derive(Debug)]
pub struct RulesHandle(watch::Sender<Arc<InForce>>);

/// The rule that matches a request, by which its token is checked.
#[derive(Clone, Copy, Debug)]
pub(super) enum MatchedRule<'a> {
    /// A rule lets the request through without a token.
    Public,
    /// A rule names the callers that it allows. A token must have one of these audiences.
    Callers(&'a AccessRule, &'a [String]),
    /// No rule matches. The token may have any accepted audience, and its caller is refused.
    None,
}

impl InForce {
    pub(super) fn new(rules: Rules, default: Arc<[String]>) -> Self {
        let own = rules.iter().flat_map(|rule| rule.audiences(&default));
        let accepted: BTreeSet<_> = own.chain(default.iter()).cloned().collect();
        let accepted = accepted.into_iter().collect();
        Self {
            rules,
            default,
            accepted,
        }
    }

    /// Returns the audiences that a token may have. They are the same [`Arc`] until they change.
    pub(super) fn accepted(&self) -> &Arc<[String]> {
        &self.accepted
    }

    /// Returns the rule that matches the request with this head.
    pub(super) fn matched(&self, head: &Parts) -> MatchedRule<'_> {
        self.matched_by(&head.method, head.uri.path())
    }

    fn matched_by(&self, method: &Method, path: &str) -> MatchedRule<'_> {
        match self.rules.deciding(method, path) {
            None => MatchedRule::None,
            Some(rule) => match rule.access {
                Access::Public => MatchedRule::Public,
                Access::Callers { .. } => MatchedRule::Callers(rule, rule.audiences(&self.default)),
            },
        }
    }
}

impl<'a> MatchedRule<'a> {
    /// Returns the audiences of which a token must have one.
    pub(super) fn audiences(self, in_force: &'a InForce) -> &'a [String] {
        match self {
            Self::Callers(_, audiences) => audiences,
            Self::Public | Self::None => &in_force.accepted,
        }
    }

    /// Returns the rule's name if the rule has audiences of its own.
    pub(super) fn names_audiences(self) -> Option<RuleName> {
        match self {
            Self::Callers(rule, _) if !rule.audiences(&[]).is_empty() => rule.name.clone(),
            _ => None,
        }
    }
}

impl Holder {
    /// Returns a holder whose rules the handle replaces.
    pub(super) fn replaceable(in_force: InForce) -> (Self, RulesHandle) {
        let (sender, receiver) = watch::channel(Arc::new(in_force));
        (Self::Replaceable(receiver), RulesHandle(sender))
    }

    pub(super) fn snapshot(&self) -> Snapshot<'_> {
        match self {
            Self::Fixed(in_force) => Snapshot::Fixed(in_force),
            Self::Replaceable(receiver) => Snapshot::Replaceable(Arc::clone(&receiver.borrow())),
        }
    }
}

impl RulesHandle {
    /// Replaces the rules for all requests whose check begins from now on.
    pub fn replace(&self, rules: Rules) {
        let before = Arc::clone(&self.0.borrow());
        let mut next = InForce::new(rules, Arc::clone(&before.default));
        if next.accepted == before.accepted {
            // The same `Arc` keeps verified tokens in the cache.
            next.accepted = Arc::clone(&before.accepted);
        }
        self.0.send_replace(Arc::new(next));
    }
}

impl Deref for Snapshot<'_> {
    type Target = InForce;

    fn deref(&self) -> &InForce {
        match self {
            Self::Fixed(in_force) => in_force,
            Self::Replaceable(in_force) => in_force,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::allow::Allow, *};

    fn rules(audiences: &[&str]) -> Rules {
        let named = |audiences: &[&str]| AccessRule {
            paths: vec!["/a".parse().unwrap()],
            ..AccessRule::new(Access::Callers {
                allow: Allow::default(),
                audiences: audiences.iter().map(ToString::to_string).collect(),
            })
        };
        Rules::from_iter([named(audiences), AccessRule::new(Access::Public)])
    }

    #[test]
    fn a_rule_s_own_audiences_replace_those_of_the_service_for_its_requests_u021() {
        let default: Arc<[String]> = vec!["d".to_owned()].into();
        for (own, of_rule, accepted) in [
            (&[] as &[&str], &["d"] as &[&str], &["d"] as &[&str]),
            (&["a"], &["a"], &["a", "d"]),
            (&["d", "a"], &["d", "a"], &["a", "d"]),
        ] {
            let in_force = InForce::new(rules(own), Arc::clone(&default));
            let matched = in_force.matched_by(&Method::GET, "/a");
            assert_eq!(matched.audiences(&in_force), of_rule);
            assert_eq!(**in_force.accepted(), *accepted);
            let elsewhere = in_force.matched_by(&Method::GET, "/b");
            assert!(matches!(elsewhere, MatchedRule::Public));
        }
    }

    #[test]
    fn accepted_audiences_are_the_same_until_they_change() {
        let default: Arc<[String]> = vec!["d".to_owned()].into();
        let (holder, handle) = Holder::replaceable(InForce::new(rules(&["a"]), default));
        let before = holder.snapshot();
        for (audiences, is_same) in [(&["a"] as &[&str], true), (&["a", "b"], false)] {
            handle.replace(rules(audiences));
            let now = holder.snapshot();
            let same = Arc::ptr_eq(now.accepted(), before.accepted());
            assert_eq!(same, is_same, "{audiences:?}");
        }
        assert_eq!(before.accepted().len(), 2, "a snapshot does not change");
    }
}
