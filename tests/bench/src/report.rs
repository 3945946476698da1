//! Writes results as text for a terminal, as Markdown for `tests/README.md`, and as JSON for
//! machines.

use serde_json::{Value, json};

use crate::{
    contender::Contender,
    figure::{Figure, RowResult, number},
    machine::Machine,
};

/// The results of a whole run.
#[derive(Debug)]
pub(crate) struct Results {
    /// The day, as in 2026-01-31.
    pub(crate) date: String,
    /// The machine of the run.
    pub(crate) machine: Machine,
    /// The number of rounds of each row.
    pub(crate) rounds: usize,
    /// The duration of each measurement in seconds.
    pub(crate) seconds: u64,
    /// The time of one P-256 signature verification, in µs.
    pub(crate) signature_check_micros: f64,
    /// The rows that were measured.
    pub(crate) rows: Vec<RowResult>,
}

/// A line of a table: the name of a figure or a heading, and a cell for each stack.
struct Line {
    title: String,
    cells: Vec<String>,
}

impl Results {
    /// Returns the stacks that have any figure.
    fn contenders(&self) -> Vec<Contender> {
        let present = |contender: &Contender| {
            let of = |row: &RowResult| row.stacks.iter().any(|(stack, _)| stack == contender);
            self.rows.iter().any(of)
        };
        Contender::ALL.into_iter().filter(present).collect()
    }

    /// Returns the figures of a row, each with its ratio to the floor. The floor's own have none.
    fn lines(&self, row: &RowResult) -> Vec<Line> {
        let cell = |contender, figure: Figure| match row.summary(contender, figure) {
            None => "–".to_owned(),
            Some(value) => match row.ratio(contender, figure) {
                Some(ratio) if contender != Contender::Floor => {
                    format!("{} ({ratio:.2} ×)", figure.written(value))
                }
                _ => figure.written(value),
            },
        };
        let line = |figure: Figure| Line {
            title: figure.title().to_owned(),
            cells: self
                .contenders()
                .into_iter()
                .map(|contender| cell(contender, figure))
                .collect(),
        };
        row.figures().into_iter().map(line).collect()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!(
                "{}; {} rounds of {} s, medians; × is the ratio to the floor.",
                self.date, self.rounds, self.seconds
            ),
            format!(
                "One check of a P-256 signature takes {} µs here.",
                number(self.signature_check_micros)
            ),
        ];
        notes.extend(self.machine.lines());
        for row in &self.rows {
            for (contender, why) in &row.left_out {
                let (row, contender) = (row.row.title(), contender.title());
                notes.push(format!("Left out: {contender}, {row}: {why}"));
            }
        }
        notes
    }

    /// Returns the results for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![Line {
            title: String::new(),
            cells: self.contenders().iter().map(|c| c.title().into()).collect(),
        }];
        for row in &self.rows {
            lines.push(Line {
                title: row.row.title().to_owned(),
                cells: Vec::new(),
            });
            let indented = self.lines(row).into_iter().map(|line| Line {
                title: format!("  {}", line.title),
                ..line
            });
            lines.extend(indented);
        }
        format!("{}\n{}\n", align(&lines), self.notes().join("\n"))
    }

    /// Returns the results as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let titles: Vec<_> = self.contenders().iter().map(|c| c.title()).collect();
        let mut text = format!("| | {} |\n", titles.join(" | "));
        text += &format!("|---{}|\n", "|---:".repeat(titles.len()));
        for row in &self.rows {
            let empty = "| ".repeat(titles.len());
            text += &format!("| **{}** {empty}|\n", row.row.title());
            for line in self.lines(row) {
                text += &format!("| {} | {} |\n", line.title, line.cells.join(" | "));
            }
        }
        for note in self.notes() {
            text += &format!("\n{note}\\");
        }
        text.trim_end_matches('\\').to_owned() + "\n"
    }

    /// Returns the medians, the ratios and every sample for machines.
    pub(crate) fn json(&self) -> Value {
        json!({
            "date": self.date,
            "machine": self.machine.json(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "signature_check_us": self.signature_check_micros,
            "rows": self.rows.iter().map(row_json).collect::<Vec<_>>(),
        })
    }
}

fn row_json(row: &RowResult) -> Value {
    let figure = |contender, figure: Figure| {
        let value = json!({
            if figure.is_total() { "total" } else { "median" }: row.summary(contender, figure),
            "ratio_to_floor": row.ratio(contender, figure),
            "samples": row.values(contender, figure),
        });
        (figure.key().to_owned(), value)
    };
    let stack = |contender: Contender| {
        let figures = row.figures().into_iter().map(|f| figure(contender, f));
        let figures: serde_json::Map<_, _> = figures
            .filter(|(_, value)| value["samples"] != json!([]))
            .collect();
        (contender.key().to_owned(), Value::Object(figures))
    };
    let left_out = row.left_out.iter();
    json!({
        "row": row.row.key(),
        "title": row.row.title(),
        "stacks": row.stacks.iter().map(|(c, _)| stack(*c)).collect::<serde_json::Map<_, _>>(),
        "left_out": left_out
            .map(|(contender, why)| (contender.key().to_owned(), json!(why)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

/// Makes columns as wide as their widest cell, with numbers to the right.
fn align(lines: &[Line]) -> String {
    let width = |text: &str| text.chars().count();
    let title = lines.iter().map(|l| width(&l.title)).max().unwrap_or(0);
    let columns = lines.iter().map(|line| line.cells.len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.cells.get(column));
            cells.map(|cell| width(cell)).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.cells.iter().zip(&widths);
        let cells: String = cells
            .map(|(cell, width)| format!("  {cell:>width$}"))
            .collect();
        text += format!("{:title$}{cells}", line.title).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::row::Row;

    /// Returns one row of three stacks and Envoy, which failed.
    pub(crate) fn results() -> Results {
        let samples = |values: [f64; 3]| {
            let sample = |value| {
                vec![
                    (Figure::RequestsPerSecond, 1e6 / value),
                    (Figure::CpuMicros, value),
                ]
            };
            values.map(sample).to_vec()
        };
        Results {
            date: "2026-01-31".to_owned(),
            machine: Machine::example(),
            rounds: 3,
            seconds: 2,
            signature_check_micros: 55.5,
            rows: vec![RowResult {
                row: Row::Wrk32,
                stacks: vec![
                    (Contender::Project, samples([34.0, 30.0, 32.0])),
                    (Contender::Floor, samples([40.0, 44.0, 36.0])),
                    (Contender::GoSpiffe, samples([320.0, 300.0, 340.0])),
                ],
                left_out: vec![(Contender::Envoy, "it did not start".to_owned())],
            }],
        }
    }

    #[test]
    fn text_is_aligned() {
        let text = results().text();
        let table: Vec<_> = text.lines().take(4).collect();
        assert_eq!(
            table,
            [
                "                                       this project   floor       go-spiffe",
                "32 kept-alive HTTP/1.1 connections",
                "  requests/s                        31,250 (1.25 ×)  25,000  3,125 (0.12 ×)",
                "  CPU per request, µs                 32.0 (0.80 ×)    40.0    320 (8.00 ×)",
            ]
        );
        assert!(text.contains("Left out: Envoy, 32 kept-alive HTTP/1.1 connections: it did not"));
    }

    #[test]
    fn markdown_has_a_cell_for_each_stack() {
        let markdown = results().markdown();
        let table: Vec<_> = markdown.lines().take(5).collect();
        assert_eq!(
            table,
            [
                "| | this project | floor | go-spiffe |",
                "|---|---:|---:|---:|",
                "| **32 kept-alive HTTP/1.1 connections** | | | |",
                "| requests/s | 31,250 (1.25 ×) | 25,000 | 3,125 (0.12 ×) |",
                "| CPU per request, µs | 32.0 (0.80 ×) | 40.0 | 320 (8.00 ×) |",
            ]
        );
        assert!(markdown.contains("\n2026-01-31; 3 rounds of 2 s, medians;"));
    }

    #[test]
    fn json_has_every_sample() {
        let json = results().json();
        let cpu = &json["rows"][0]["stacks"]["project"]["cpu_us_per_request"];
        assert_eq!(cpu["median"], 32.0);
        assert_eq!(cpu["ratio_to_floor"], 0.8);
        assert_eq!(cpu["samples"], json!([34.0, 30.0, 32.0]));
        assert_eq!(json["rows"][0]["left_out"]["envoy"], "it did not start");
    }
}
