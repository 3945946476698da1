//! Writes the table into `tests/README.md`, and the plot next to it.

use std::{fs, path::Path};

use anyhow::Result;
use harness::results::{Marks, ROOT};

use crate::{plot, report::Results};

const MARKS: Marks = Marks {
    begin: "<!-- scripts/bench.sh --readme writes from here -->\n",
    end: "<!-- to here -->\n",
};
/// The path of the plot, from the directory of the document.
const PLOT: &str = "bench/cpu.svg";

/// Rewrites the table and the plot.
pub(crate) fn write(results: &Results) -> Result<()> {
    let table = results.markdown();
    MARKS.rewrite(&format!("![CPU per request by stack]({PLOT})\n\n{table}"))?;
    let plot = plot::svg(&results.rows, &results.date);
    fs::write(Path::new(ROOT).join("tests").join(PLOT), plot)?;
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
