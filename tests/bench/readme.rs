//! Puts the results into the README, so that no number there is typed by hand.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{plot, report::Results};

const BEGIN: &str = "<!-- scripts/bench.sh --readme writes from here -->\n";
const END: &str = "<!-- to here -->\n";
/// Where the plot is, from the root.
const PLOT: &str = "tests/bench/cpu.svg";
/// The root of the workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Rewrites the table in README.md, and the plot that it shows.
pub(crate) fn write(results: &Results) -> Result<()> {
    let root = Path::new(ROOT);
    let readme = root.join("README.md");
    let text = fs::read_to_string(&readme)?;
    let part = format!(
        "![CPU per request by stack]({PLOT})\n\n{}",
        results.markdown()
    );
    let text = replaced(&text, &part).context("README.md has lost the marks of the table")?;
    fs::write(readme, text)?;
    let plot = plot::svg(&results.rows, &results.date);
    fs::write(root.join(PLOT), plot)?;
    Ok(())
}

/// `text` with `part` between the marks.
fn replaced(text: &str, part: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{part}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("# Title\n{BEGIN}old\nlines\n{END}\nrest\n");
        let expected = format!("# Title\n{BEGIN}\nnew\n\n{END}\nrest\n");
        assert_eq!(replaced(&text, "new\n"), Some(expected.clone()));
        assert_eq!(replaced(&expected, "new\n"), Some(expected));
        assert_eq!(replaced("# Title\n", "new\n"), None);
    }

    #[test]
    fn the_readme_has_the_marks() {
        let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
        assert!(replaced(&readme, "new\n").is_some());
    }
}
