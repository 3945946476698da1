//! The results in the README: the table, and the plot that it shows.

use std::{fs, path::Path};

use anyhow::Result;
use harness::readme::{Marks, ROOT};

use crate::{plot, report::Results};

const MARKS: Marks = Marks {
    begin: "<!-- scripts/bench.sh --readme writes from here -->\n",
    end: "<!-- to here -->\n",
};
/// Where the plot is, from the root.
const PLOT: &str = "tests/bench/cpu.svg";

/// Rewrites the table in README.md, and the plot that it shows.
pub(crate) fn write(results: &Results) -> Result<()> {
    let table = results.markdown();
    MARKS.rewrite(&format!("![CPU per request by stack]({PLOT})\n\n{table}"))?;
    let plot = plot::svg(&results.rows, &results.date);
    fs::write(Path::new(ROOT).join(PLOT), plot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_marks() {
        assert!(MARKS.are_there());
    }
}
