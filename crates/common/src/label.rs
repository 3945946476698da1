//! Labels: small sets of names that log lines, metrics and documents share.

/// A set of names. Each name has an index, so that an array can count by name.
pub trait Label: Copy + 'static {
    /// All labels, in the order of their indices.
    const ALL: &'static [Self];

    /// Returns the name.
    fn as_str(self) -> &'static str;

    /// Returns the position in [`Self::ALL`].
    fn index(self) -> usize;
}

/// Declares an enum of labels with the name of each, and implements [`Label`] and `Display` for it. Two labels
/// with the same name do not compile.
///
/// The list of all labels is made here, because a list by hand could lack a new one.
///
/// ```
/// use common::label::Label;
///
/// common::labels! {
///     /// The end of a task.
///     pub enum End {
///         /// It is complete.
///         Complete = "complete",
///         /// It failed.
///         Failed = "failed",
///     }
/// }
/// assert_eq!(End::Failed.to_string(), "failed");
/// assert_eq!(End::ALL[End::Failed.index()], End::Failed);
/// ```
#[macro_export]
macro_rules! labels {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $labels:ident {
            $($(#[$doc:meta])* $label:ident = $name:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility enum $labels {
            $($(#[$doc])* $label,)+
        }

        const _: () = assert!(
            $crate::label::are_unique(&[$($name,)+]),
            "two labels have the same name"
        );

        impl $crate::label::Label for $labels {
            const ALL: &'static [Self] = &[$(Self::$label,)+];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$label => $name,)+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl ::std::fmt::Display for $labels {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str($crate::label::Label::as_str(*self))
            }
        }
    };
}

/// Returns whether no two of `names` are the same. The macro calls it at compile time.
#[must_use]
pub const fn are_unique(names: &[&str]) -> bool {
    let mut one = 0;
    while one < names.len() {
        let mut other = one + 1;
        while other < names.len() {
            if is_same(names[one].as_bytes(), names[other].as_bytes()) {
                return false;
            }
            other += 1;
        }
        one += 1;
    }
    true
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn names_are_unique_unless_two_are_the_same() {
        for (names, expected) in [
            (&[] as &[&str], true),
            (&["a"], true),
            (&["a", "b", "ab", "ba", ""], true),
            (&["a", "b", "a"], false),
            (&["b", "", ""], false),
        ] {
            assert_eq!(are_unique(names), expected, "{names:?}");
        }
    }

    #[test]
    fn each_label_is_found_at_its_index() {
        for (index, one) in Reason::ALL.iter().enumerate() {
            assert_eq!(one.index(), index);
            assert_eq!(one.to_string(), one.as_str());
        }
    }

    #[test]
    fn code_of_a_reason_has_small_letters_and_underscores_only() {
        let is_plain = |code: &str| code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
        for reason in Reason::ALL {
            assert!(is_plain(reason.as_str()), "{reason}");
        }
    }
}
