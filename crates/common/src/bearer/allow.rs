//! Patterns over SPIFFE IDs that select the allowed callers.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
};

use spiffe::{SpiffeId, TrustDomain};

use super::rules::RuleName;

/// The patterns of the allowed callers. A caller is allowed if one of them matches its SPIFFE ID; an
/// empty set allows nobody.
///
/// A check looks up the ID and each path above it in hash tables. Its cost does not grow with the number
/// of patterns (`cargo bench -p common --bench bearer -- 'allow patterns'`).
#[derive(Clone, Debug, Default)]
pub struct Allow {
    exact: HashSet<SpiffeId>,
    /// The paths below which every ID is allowed, by trust domain.
    below: HashMap<TrustDomain, HashSet<String>>,
    refused_by: RefusedBy,
}

/// The part of the policy that refuses a caller, as a text for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RefusedBy {
    /// Patterns that were given.
    #[default]
    Patterns,
    /// The workloads of one trust domain, which [`Allow::members_of`] returns.
    MembersOf(TrustDomain),
    /// The callers of a rule that has a name.
    Named(RuleName),
    /// The absence of a rule for the request.
    NoRule,
}

/// A pattern that matches one SPIFFE ID, or all below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Matches one ID, as in `spiffe://example.org/client`.
    Exact(SpiffeId),
    /// Matches every ID below a path, as in `spiffe://example.org/*` or `spiffe://example.org/ns/*`.
    /// Segments match as a whole: `/ns/*` does not match `/nsx/a`.
    Below {
        /// The trust domain of the IDs.
        trust_domain: TrustDomain,
        /// The path before `/*`, which is empty or starts with a slash.
        path: String,
    },
}

/// The reason why a text is not a pattern.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// The text, or the part before `/*`, is not a SPIFFE ID (SPIFFE-ID §2).
    #[error(
        "{0}; expected a SPIFFE ID such as spiffe://example.org/client, or all below a path: spiffe://example.org/ns/*"
    )]
    SpiffeId(#[from] spiffe::SpiffeIdError),
    /// The text is a trust domain alone, which does not name a workload.
    #[error("a pattern without a path matches nobody; for the whole trust domain write {0}/*")]
    NoPath(SpiffeId),
}

impl Allow {
    /// Returns the patterns that allow every workload of one trust domain.
    #[must_use]
    pub fn members_of(trust_domain: TrustDomain) -> Self {
        let refused_by = RefusedBy::MembersOf(trust_domain.clone());
        let path = String::new();
        Self {
            refused_by,
            ..Self::from_iter([Pattern::Below { trust_domain, path }])
        }
    }

    /// Returns what refuses a caller that this set does not allow.
    #[must_use]
    pub fn refused_by(&self) -> &RefusedBy {
        &self.refused_by
    }

    /// Returns whether a pattern matches. An ID without a path does not name a workload (X509-SVID
    /// §3.1) and is never allowed.
    #[must_use]
    pub fn allows(&self, id: &SpiffeId) -> bool {
        !id.path().is_empty() && (self.exact.contains(id) || self.allows_all_above(id))
    }

    /// Returns the trust domains of the patterns.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        let exact = self.exact.iter().map(SpiffeId::trust_domain);
        exact.chain(self.below.keys())
    }

    fn allows_all_above(&self, id: &SpiffeId) -> bool {
        let path = id.path();
        self.below.get(id.trust_domain()).is_some_and(|paths| {
            let mut above = path.match_indices('/').map(|(end, _)| &path[..end]);
            above.any(|above| paths.contains(above))
        })
    }
}

impl Pattern {
    /// Returns the trust domain of the IDs that the pattern matches.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Exact(id) => id.trust_domain(),
            Self::Below { trust_domain, .. } => trust_domain,
        }
    }
}

impl FromIterator<Pattern> for Allow {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        let mut allow = Self::default();
        for pattern in patterns {
            match pattern {
                Pattern::Exact(id) => {
                    allow.exact.insert(id);
                }
                Pattern::Below { trust_domain, path } => {
                    allow.below.entry(trust_domain).or_default().insert(path);
                }
            }
        }
        allow
    }
}

/// Completes a sentence that begins with the refused caller.
impl fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patterns => f.write_str("matches no allowed pattern"),
            Self::MembersOf(trust_domain) => write!(
                f,
                "is not a workload of the trust domain {trust_domain}, and only its workloads are allowed"
            ),
            Self::Named(name) => write!(f, "is not a caller of {name}"),
            Self::NoRule => f.write_str("sent a request that no rule matches"),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Some(above) = text.strip_suffix("/*") {
            let above = SpiffeId::new(above)?;
            return Ok(Self::Below {
                trust_domain: above.trust_domain().clone(),
                path: above.path().to_owned(),
            });
        }
        let id = SpiffeId::new(text)?;
        if id.path().is_empty() {
            return Err(PatternError::NoPath(id));
        }
        Ok(Self::Exact(id))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "{id}"),
            Self::Below { trust_domain, path } => write!(f, "spiffe://{trust_domain}{path}/*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, id: &str) -> bool {
        Allow::from_iter([pattern.parse().unwrap()]).allows(&SpiffeId::new(id).unwrap())
    }

    #[test]
    fn a_pattern_matches_whole_ids_and_whole_segments() {
        for (pattern, id, expected) in [
            (
                "spiffe://example.org/client",
                "spiffe://example.org/client",
                true,
            ),
            (
                "spiffe://example.org/client",
                "spiffe://example.org/client2",
                false,
            ),
            (
                "spiffe://example.org/client",
                "spiffe://example.org/client/x",
                false,
            ),
            (
                "spiffe://example.org/client",
                "spiffe://example.org/Client",
                false,
            ),
            (
                "spiffe://example.org/client",
                "spiffe://partner.example/client",
                false,
            ),
            (
                "spiffe://example.org/*",
                "spiffe://example.org/client",
                true,
            ),
            (
                "spiffe://example.org/*",
                "spiffe://example.org/ns/a/sa/b",
                true,
            ),
            ("spiffe://example.org/*", "spiffe://example.org", false),
            (
                "spiffe://example.org/*",
                "spiffe://sub.example.org/client",
                false,
            ),
            (
                "spiffe://example.org/ns/*",
                "spiffe://example.org/ns/a",
                true,
            ),
            (
                "spiffe://example.org/ns/*",
                "spiffe://example.org/ns",
                false,
            ),
            (
                "spiffe://example.org/ns/*",
                "spiffe://example.org/nsx/a",
                false,
            ),
        ] {
            assert_eq!(allows(pattern, id), expected, "{pattern} {id}");
        }
    }

    #[test]
    fn an_empty_set_allows_nobody() {
        assert!(!Allow::default().allows(&SpiffeId::new("spiffe://example.org/client").unwrap()));
    }

    #[test]
    fn a_text_that_is_not_a_pattern_is_an_error() {
        for text in [
            "",
            "*",
            "/*",
            "spiffe://",
            "spiffe://*",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/a*",
            "spiffe://example.org/*/a",
            "spiffe://example.org/**",
            "https://a/b",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_displayed_as_it_was_written() {
        for text in [
            "spiffe://example.org/client",
            "spiffe://example.org/*",
            "spiffe://example.org/ns/*",
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
    }

    const SEGMENT: &str = "[ab]{1,2}";

    proptest::proptest! {
        /// Checks that no text panics, and that a pattern is displayed as it was parsed.
        #[test]
        fn any_text_is_a_pattern_or_an_error(text in "(spiffe://)?[a-zA-Z0-9._/*-]{0,24}(/\\*)?") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
            }
        }

        /// Checks that an ID matches another one's pattern only if it is the same, or is below its star
        /// by whole segments. The alphabet is small, so that the IDs are similar.
        #[test]
        fn a_pattern_matches_itself_and_whole_segments_below_its_star(
            named in proptest::collection::vec(SEGMENT, 1..3),
            caller in proptest::collection::vec(SEGMENT, 1..4),
            of_caller in 0_usize..4,
        ) {
            let id = |segments: &[String]| format!("spiffe://example.org/{}", segments.join("/"));
            let above = &caller[..of_caller.min(caller.len())];
            let own = id(&caller);
            assert!(allows(&own, &own));
            assert_eq!(allows(&id(&named), &own), named == caller);
            assert_eq!(allows(&format!("{}/*", id(&named)), &own), caller.len() > named.len() && caller.starts_with(&named));
            let star = if above.is_empty() { "spiffe://example.org/*".to_owned() } else { format!("{}/*", id(above)) };
            assert_eq!(allows(&star, &own), above.len() < caller.len());
            assert!(!allows(&star, &format!("spiffe://partner.example/{}", caller.join("/"))));
            assert!(!allows(&own, &format!("{own}a")) && !allows(&own, &format!("{own}/a")));
        }
    }
}
