//! `CONFORMANCE.md` lists what must be accepted and refused; this test keeps it honest: every number
//! is there once, in order, and names tests that exist, in a file that says the number, or gives a
//! reason.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The parts of the list and the last number of each.
const PARTS: [(char, u32); 5] = [('J', 204), ('P', 201), ('W', 184), ('D', 51), ('S', 6)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Number → what the last column says, in the order of the file.
fn rows() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("tests/CONFORMANCE.md")).expect("is there");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    text.lines()
        .filter(|line| {
            line.starts_with("| ") && line.as_bytes().get(3).is_some_and(u8::is_ascii_digit)
        })
        .map(cells)
        .map(|cells| {
            assert_eq!(cells.len(), 4, "four columns: {cells:?}");
            (cells[0].clone(), cells[3].clone())
        })
        .collect()
}

/// A file that a row names, and the tests in it: `` `tests/x.rs` j001_a, j002_b ``. A module is named by
/// its path, `` `process::telemetry::quota` ``; a name that ends in a star stands for all that begin so.
struct Named<'a> {
    file: String,
    tests: Vec<&'a str>,
}

/// What the last column of a row names. What else it has in backticks is code, and between them prose,
/// which has no underscores.
fn named(cell: &str) -> Vec<Named<'_>> {
    let mut all: Vec<Named<'_>> = Vec::new();
    for (index, text) in cell.split('`').enumerate() {
        if index % 2 == 0 {
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if let Some(last) = all.last_mut() {
                last.tests.extend(words.filter(|word| word.contains('_')));
            }
        } else if text.ends_with(".rs") || text.contains("::") {
            let file = match text.split_once("::") {
                Some((name, module)) => {
                    format!("crates/{name}/src/{}.rs", module.replace("::", "/"))
                }
                None => text.to_owned(),
            };
            let tests = Vec::new();
            all.push(Named { file, tests });
        }
    }
    all
}

/// Whether a word of the text says the number, or a part of one between underscores: what
/// `fn j029_…`, `fn p025_p026_…` and a table's row "J29" have in common.
fn is_said(number: &str, text: &str) -> bool {
    let (part, digits) = number.split_at(1);
    let part = part.to_lowercase();
    let spellings = [
        number.to_owned(),
        format!("{part}{digits}"),
        format!("{part}{digits:0>3}"),
    ];
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| spellings.iter().any(|spelling| spelling == word))
}

/// What is wrong with the last column of a row, if anything is.
fn fault(number: &str, last: &str) -> Option<String> {
    let named = named(last);
    if named.is_empty() {
        let is_reason = last.split_whitespace().count() >= 4;
        return (!is_reason).then(|| "has neither a test nor a reason".to_owned());
    }
    let mut said = false;
    for Named { file, tests } in named {
        let Ok(text) = fs::read_to_string(root().join(&file)) else {
            return Some(format!("names {file}, which is not there"));
        };
        let is_there = |test: &&str| {
            let end = if test.ends_with('_') { "" } else { "(" };
            text.contains(&format!("fn {test}{end}"))
        };
        if let Some(missing) = tests.iter().find(|test| !is_there(test)) {
            return Some(format!("names {missing}, which is not in {file}"));
        }
        said |= is_said(number, &text);
    }
    (!said).then(|| "is said in none of the files that it names".to_owned())
}

#[test]
fn every_number_is_there_once_in_order() {
    let numbers: Vec<String> = rows().into_iter().map(|(number, _)| number).collect();
    let expected: Vec<String> = PARTS
        .iter()
        .flat_map(|&(part, last)| (1..=last).map(move |n| format!("{part}{n}")))
        .collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|number| !numbers.contains(number))
        .collect();
    assert!(missing.is_empty(), "not in CONFORMANCE.md: {missing:?}");
    assert_eq!(numbers, expected);
}

#[test]
fn every_number_has_a_test_that_says_it_or_a_reason() {
    let wrong: BTreeMap<_, _> = rows()
        .into_iter()
        .filter_map(|(number, last)| Some((fault(&number, &last)?, number)))
        .map(|(fault, number)| (number, fault))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_row_that_names_nothing_or_what_is_not_there_is_found() {
    for (number, last, right) in [
        ("J1", "`tests/tokens/algorithms.rs` j001_good_tokens", true),
        ("P143", "`tests/limits/connections.rs` p143_*", true),
        (
            "J37",
            "`common::throttle::quota`; `tests/server/refused.rs`; `tests/tokens/header.rs`",
            true,
        ),
        ("W111", "not applicable: nothing is cached", true),
        ("J1", "the library", false),
        ("J1", "`tests/tokens/algorithms.rs` j001_bad_tokens", false),
        ("J1", "`tests/tokens/algorithm.rs` j001_good_tokens", false),
        ("W1", "`tests/tokens/algorithms.rs` j001_good_tokens", false),
    ] {
        assert_eq!(fault(number, last).is_none(), right, "{number} {last}");
    }
}
