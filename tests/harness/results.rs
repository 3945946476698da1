//! Writes measured tables into `tests/README.md`, so that no number there is typed by hand.

use std::{fs, io, path::Path};

/// The root of the workspace.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The path from the root of the document that has the results.
const DOCUMENT: &str = "tests/README.md";

/// The two lines of the document between which results are written.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// The line before the results, with its line feed.
    pub begin: &'static str,
    /// The line after the results, with its line feed.
    pub end: &'static str,
}

impl Marks {
    /// Writes `part` between the marks.
    ///
    /// # Errors
    /// Fails when the document can't be read or written, or does not have the marks.
    pub fn rewrite(self, part: &str) -> io::Result<()> {
        let path = Path::new(ROOT).join(DOCUMENT);
        let text = fs::read_to_string(&path)?;
        let lost = || io::Error::other(format!("{DOCUMENT} has no {:?}", self.begin));
        fs::write(&path, self.replaced(&text, part).ok_or_else(lost)?)
    }

    /// Returns whether the document has the marks.
    #[must_use]
    pub fn are_there(self) -> bool {
        let text = fs::read_to_string(Path::new(ROOT).join(DOCUMENT));
        text.is_ok_and(|text| self.replaced(&text, "").is_some())
    }

    fn replaced(self, text: &str, part: &str) -> Option<String> {
        let Self { begin, end } = self;
        let (before, rest) = text.split_once(begin)?;
        let (_, after) = rest.split_once(end)?;
        Some(format!("{before}{begin}\n{part}\n{end}{after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let marks = Marks {
            begin: "<!-- from -->\n",
            end: "<!-- to -->\n",
        };
        let text = "# Title\n<!-- from -->\nold\nlines\n<!-- to -->\n\nrest\n";
        let expected = "# Title\n<!-- from -->\n\nnew\n\n<!-- to -->\n\nrest\n".to_owned();
        assert_eq!(marks.replaced(text, "new\n"), Some(expected.clone()));
        assert_eq!(marks.replaced(&expected, "new\n"), Some(expected));
        assert_eq!(marks.replaced("# Title\n", "new\n"), None);
    }
}
