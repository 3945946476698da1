//! The choice of one identity among those that the Workload API issues (Workload API §5.2.1, §8).

use std::fmt;

use spiffe::SpiffeId;

use crate::sanitize::Sanitized;

/// The identity that a process uses, if the Workload API issues several. Their order says nothing,
/// because an agent may order them by registration entries with random IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first one at start, which is kept for as long as it is issued.
    #[default]
    First,
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
    /// The first one with this hint.
    Hint(String),
}

/// An identity in an answer, as far as the choice needs it.
pub(super) struct Offered<'a> {
    pub(super) id: &'a str,
    pub(super) hint: &'a str,
}

/// The error that the chosen identity is not among those that are issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotIssued {
    choice: Choice,
    /// The first IDs that are issued.
    issued: Vec<String>,
    /// The number of further ones.
    more: usize,
}

/// The most SPIFFE IDs that an error lists.
const MAX_LISTED: usize = 5;

impl Choice {
    /// Returns the index of the chosen identity among those that are offered. `held` is the identity that
    /// the process has.
    pub(super) fn among<'a>(
        &self,
        offered: impl Iterator<Item = Offered<'a>> + Clone,
        held: Option<&SpiffeId>,
    ) -> Result<usize, NotIssued> {
        let with_id = |id: &SpiffeId| {
            let id = id.to_string();
            offered.clone().position(|one| one.id == id)
        };
        let index = match self {
            Self::First => held.and_then(with_id).or(Some(0)),
            Self::Id(id) => with_id(id),
            Self::Hint(hint) => offered.clone().position(|one| one.hint == hint),
        };
        let count = offered.clone().count();
        index.filter(|index| *index < count).ok_or_else(|| {
            let listed = offered.take(MAX_LISTED);
            NotIssued {
                choice: self.clone(),
                issued: listed.map(|one| Sanitized(one.id).to_string()).collect(),
                more: count.saturating_sub(MAX_LISTED),
            }
        })
    }
}

/// Writes what was chosen, and what is issued.
impl fmt::Display for NotIssued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.choice {
            Choice::First => f.write_str("it issues no identity")?,
            Choice::Id(id) => write!(f, "it does not issue {id}")?,
            Choice::Hint(hint) => {
                write!(
                    f,
                    "it issues no identity with the hint {:?}",
                    Sanitized(hint)
                )?;
            }
        }
        if !self.issued.is_empty() {
            write!(f, "; it issues {}", self.issued.join(", "))?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [[&str; 2]; 4] = [
        ["spiffe://example.org/new", ""],
        ["spiffe://example.org/a", "internal"],
        ["spiffe://example.org/b", "internal"],
        ["spiffe://example.org/a", "external"],
    ];

    fn chosen(choice: &Choice, held: Option<&str>) -> Result<usize, String> {
        let offered = OFFERED.iter().map(|[id, hint]| Offered { id, hint });
        let held = held.map(|id| SpiffeId::new(id).unwrap());
        let index = choice.among(offered, held.as_ref());
        index.map_err(|error| error.to_string())
    }

    #[test]
    fn identity_is_the_chosen_one_or_the_held_one_or_the_first_w177_w178() {
        let id = |text| Choice::Id(SpiffeId::new(text).unwrap());
        let hint = |text: &str| Choice::Hint(text.to_owned());
        let held = Some("spiffe://example.org/b");
        for (choice, held, expected) in [
            (Choice::First, None, Ok(0)),
            (Choice::First, held, Ok(2)),
            (Choice::First, Some("spiffe://example.org/gone"), Ok(0)),
            (id("spiffe://example.org/a"), held, Ok(1)),
            (hint("internal"), None, Ok(1)),
            (hint("external"), held, Ok(3)),
            (
                id("spiffe://example.org/c"),
                held,
                Err("it does not issue spiffe://example.org/c; it issues spiffe://example.org/new"),
            ),
            (
                hint("other"),
                held,
                Err("it issues no identity with the hint \"other\"; it issues"),
            ),
        ] {
            match (chosen(&choice, held), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{choice:?}"),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{found}"),
                (found, expected) => panic!("{choice:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn error_lists_five_identities_and_counts_the_rest() {
        let ids: Vec<_> = (0..150)
            .map(|n| format!("spiffe://example.org/{n}"))
            .collect();
        let offered = ids.iter().map(|id| Offered { id, hint: "" });
        let error = Choice::Hint("x".to_owned())
            .among(offered, None)
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("spiffe://example.org/4 and 145 more"),
            "{text}"
        );
    }
}
