//! Reads and writes the rows of `CONFORMANCE.md`.

use std::collections::BTreeMap;

use crate::source::Tests;

/// The parts of the list and the last number of each.
pub(crate) const PARTS: [(char, u32); 9] = [
    ('J', 211),
    ('P', 201),
    ('H', 12),
    ('W', 185),
    ('D', 51),
    ('S', 6),
    ('T', 27),
    ('U', 35),
    ('F', 19),
];

/// A row of the list.
pub(crate) struct Row<'a> {
    pub(crate) number: &'a str,
    /// The cells of the number, the rule and its source.
    kept: &'a str,
    /// The cell of the tests that prove the rule, or of the reason why there is none.
    last: &'a str,
}

impl<'a> Row<'a> {
    /// Reads a line if it is a row, which begins with a number and has four cells.
    pub(crate) fn read(line: &'a str) -> Option<Self> {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let (number, _) = cells.split_once(" | ")?;
        if !number.as_bytes().get(1)?.is_ascii_digit() {
            return None;
        }
        assert_eq!(cells.split(" | ").count(), 4, "four cells: {line}");
        let (kept, last) = cells.rsplit_once(" | ")?;
        Some(Self { number, kept, last })
    }

    /// Returns whether the last cell has a reason instead of tests.
    fn has_reason(&self) -> bool {
        !self.last.contains(".rs`") && self.last.split_whitespace().count() >= 4
    }

    /// Returns the row with its tests, or its fault.
    pub(crate) fn written(&self, tests: &BTreeMap<String, Tests>) -> Result<String, String> {
        let proof = proof(self.number, tests);
        match (proof.is_empty(), self.has_reason()) {
            (true, true) => Ok(format!("| {} | {} |", self.kept, self.last)),
            (false, false) => Ok(format!("| {} | {proof} |", self.kept)),
            (true, false) => Err("no test names it, and there is no reason".to_owned()),
            (false, true) => Err(format!("it has a reason, but a test names it: {proof}")),
        }
    }
}

/// Returns the tests that name a number, by file.
fn proof(number: &str, tests: &BTreeMap<String, Tests>) -> String {
    let files = tests.iter().filter_map(|(file, tests)| {
        let named = tests.iter().filter(|(_, said)| said.contains(number));
        let names: Vec<_> = named.map(|(name, _)| name.as_str()).collect();
        (!names.is_empty()).then(|| format!("`{file}` {}", names.join(", ")))
    });
    files.collect::<Vec<_>>().join("; ")
}

/// Writes the last cell of each row of `list` again. Returns the list, and the faults of its rows.
pub(crate) fn written(list: &str, tests: &BTreeMap<String, Tests>) -> (String, Vec<String>) {
    let mut faults = Vec::new();
    let lines = list.lines().map(|line| {
        let Some(row) = Row::read(line) else {
            return format!("{line}\n");
        };
        let written = row.written(tests).unwrap_or_else(|fault| {
            faults.push(format!("{}: {fault}", row.number));
            line.to_owned()
        });
        format!("{written}\n")
    });
    (lines.collect(), faults)
}

#[test]
fn row_names_all_tests_that_say_its_number_and_no_others() {
    let say = |test: &str, number: &str| (test.to_owned(), [number.to_owned()].into());
    let tests = BTreeMap::from([
        (
            "a.rs".to_owned(),
            Tests::from([say("x_j001", "J1"), say("y_j001", "J1")]),
        ),
        (
            "b.rs".to_owned(),
            Tests::from([say("z", "J1"), say("w_j003", "J3")]),
        ),
    ]);
    let list = "\
| # | rule | source | test |
|---|---|---|---|
| J1 | a `code` | RFC | `a.rs` x_j001; `c.rs` gone_j001 |
| J2 | none | RFC | not applicable: nothing is cached |
| J3 | some | RFC | not applicable: nothing is cached |
| J4 | lost | RFC | `b.rs` z |
";
    let (list, faults) = written(list, &tests);
    assert!(
        list.contains("| J1 | a `code` | RFC | `a.rs` x_j001, y_j001; `b.rs` z |\n"),
        "{list}"
    );
    assert!(
        list.contains("| J2 | none | RFC | not applicable: nothing is cached |\n"),
        "{list}"
    );
    let numbers: Vec<_> = faults.iter().map(|fault| &fault[..2]).collect();
    assert_eq!(numbers, ["J3", "J4"], "{faults:?}");
}
