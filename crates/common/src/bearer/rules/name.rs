//! The name of a rule.

use std::{fmt, sync::Arc};

/// The name of a rule in the words of a log line, such as `rule "orders"` or `the rule in line 7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName(Arc<str>);

impl RuleName {
    /// Returns the name of a rule that was given one.
    #[must_use]
    pub fn given(name: &str) -> Self {
        Self(format!("rule {name:?}").into())
    }

    /// Returns the name of a rule that a flag describes, such as `--public`.
    #[must_use]
    pub fn flag(flag: &str) -> Self {
        Self(flag.into())
    }

    /// Returns the name of a rule that was given none, by its line in a file.
    #[must_use]
    pub fn in_line(line: usize) -> Self {
        Self(format!("the rule in line {line}").into())
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
