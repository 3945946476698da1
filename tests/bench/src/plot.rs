//! Draws the CPU time per request as an SVG, with a bar for each stack under each load.

use std::fmt::Write as _;

use crate::{
    contender::Contender,
    figure::{Figure, RowResult, number},
};

const WIDTH: usize = 720;
/// The x coordinate where bars begin, to the right of the names.
const BARS: usize = 150;
/// The length of the longest bar of a load. Its value stands to the right.
const LONGEST: f64 = 420.0;
const HEADING: usize = 34;
const BAR: usize = 22;

/// An SVG image does not inherit colours, so it has its own for light and dark pages.
const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.load { font-weight: 600 }
rect { fill: #8c959f }
.own { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  rect { fill: #6e7681 }
  .own { fill: #58a6ff }
}";

/// Draws the rows that compared CPU per request with the floor. Each has its own scale, which begins at zero.
pub(crate) fn svg(rows: &[RowResult], date: &str) -> String {
    let mut marks = String::new();
    let mut y = 0;
    for row in rows {
        let bars: Vec<_> = row
            .stacks
            .iter()
            .filter_map(|(stack, _)| Some((*stack, row.median(*stack, Figure::CpuMicros)?)))
            .collect();
        if bars.iter().all(|(stack, _)| *stack != Contender::Floor) {
            continue;
        }
        y += HEADING;
        text(&mut marks, "load", 0, y - 10, row.row.title());
        let most = bars.iter().map(|(_, cpu)| *cpu).fold(0.0, f64::max);
        for (contender, cpu) in bars {
            bar(&mut marks, row, contender, cpu / most * LONGEST, y);
            y += BAR;
        }
    }
    let height = y + HEADING;
    let scale = format!("User and system time of server and proxy per request, in µs. {date}");
    text(&mut marks, "note", 0, height - 10, &scale);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>CPU per request by stack</title>\n<style>\n{STYLE}\n</style>\n{marks}</svg>\n"
    )
}

/// Draws one stack: its name, its bar, its value and its ratio to the floor.
fn bar(marks: &mut String, row: &RowResult, contender: Contender, length: f64, y: usize) {
    let own = contender == Contender::Project;
    let class = if own { " class=\"own\"" } else { "" };
    text(marks, "stack", 0, y + 15, contender.title());
    let _ = writeln!(
        marks,
        "<rect{class} x=\"{BARS}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" rx=\"2\"/>",
        y + 2,
        BAR - 4
    );
    let cpu = row.median(contender, Figure::CpuMicros).map(number);
    let mut value = cpu.unwrap_or_default();
    if contender != Contender::Floor
        && let Some(ratio) = row.ratio(contender, Figure::CpuMicros)
    {
        value += &format!(" ({ratio:.2} × floor)");
    }
    let after = BARS + length as usize + 8;
    text(marks, "value", after, y + 15, &value);
}

/// Writes a text that needs no escapes in XML.
fn text(marks: &mut String, class: &str, x: usize, y: usize, text: &str) {
    let _ = writeln!(
        marks,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::results;

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let results = results();
        let svg = svg(&results.rows, &results.date);
        // The medians are 32, 40 and 320 µs.
        let bar = |attributes: &str, width: &str| {
            format!("<rect{attributes} x=\"150\" y=\"Y\" width=\"{width}\"")
        };
        for (y, bar) in [
            ("36", bar(" class=\"own\"", "42.0")),
            ("58", bar("", "52.5")),
            ("80", bar("", "420.0")),
        ] {
            assert!(svg.contains(&bar.replace('Y', y)), "{bar}\n{svg}");
        }
        assert!(svg.contains(">32.0 (0.80 × floor)</text>"), "{svg}");
        assert!(svg.contains(">40.0</text>"), "{svg}");
        assert!(svg.contains("2026-01-31"), "{svg}");
    }

    #[test]
    fn plot_has_colours_for_dark_pages() {
        let svg = svg(&results().rows, "");
        assert!(svg.contains("prefers-color-scheme: dark"));
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 "));
    }

    #[test]
    fn rows_without_the_figure_or_the_floor_are_not_drawn() {
        let mut results = results();
        let stacks = &mut results.rows[0].stacks;
        stacks.retain(|(stack, _)| *stack != Contender::Floor);
        assert!(!stacks.is_empty());
        assert!(!svg(&results.rows, "").contains("<rect"));
        results.rows[0].stacks.clear();
        assert!(!svg(&results.rows, "").contains("<rect"));
    }
}
