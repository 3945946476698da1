//! Puts measured tables into the README, so that no number there is typed by hand.

use std::{fs, io, path::Path};

/// The root of the workspace.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where in README.md something is rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// The line before it, with its end.
    pub begin: &'static str,
    /// The line after it, likewise.
    pub end: &'static str,
}

impl Marks {
    /// Writes `part` between the marks.
    ///
    /// # Errors
    /// When README.md can't be read or written, or has lost them.
    pub fn rewrite(self, part: &str) -> io::Result<()> {
        let path = Path::new(ROOT).join("README.md");
        let text = fs::read_to_string(&path)?;
        let lost = || io::Error::other(format!("README.md has lost {:?}", self.begin));
        fs::write(&path, self.replaced(&text, part).ok_or_else(lost)?)
    }

    /// Whether README.md has them.
    #[must_use]
    pub fn are_there(self) -> bool {
        let text = fs::read_to_string(Path::new(ROOT).join("README.md"));
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
