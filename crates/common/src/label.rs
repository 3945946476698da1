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

/// Declares an enum of labels with the name of each, and implements [`Label`] and `Display` for it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn each_label_is_found_at_its_index_and_no_two_have_one_name() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|one| one.as_str()).collect();
        for (index, one) in Reason::ALL.iter().enumerate() {
            assert_eq!(one.index(), index);
            assert_eq!(one.to_string(), one.as_str());
        }
        let is_plain = |name: &&str| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
        assert!(names.iter().all(is_plain));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
