//! `CONFORMANCE.md` lists what must be accepted and refused; this test keeps it honest: every number
//! is there once, in order, and names a test that exists and says the number, or gives a reason.

use std::{
    collections::{BTreeMap, HashSet},
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

/// Every word of the test code and its vectors, and every part of a word between underscores: what
/// `fn j029_…`, `fn p025_p026_…` and a row that begins with "J29" have in common.
fn words_of_tests() -> HashSet<String> {
    let mut words = HashSet::new();
    let mut todo = vec![root().join("tests"), root().join("crates")];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("is readable");
            todo.extend(entries.map(|entry| entry.expect("is readable").path()));
        } else if is_test_code(&path) {
            let text = fs::read_to_string(&path).expect("is text");
            for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                words.extend(word.split('_').map(str::to_owned));
            }
        }
    }
    words
}

fn is_test_code(path: &Path) -> bool {
    let text = path
        .extension()
        .is_some_and(|extension| extension == "rs" || extension == "json");
    text && !path.ends_with("tests/conformance.rs")
}

fn is_said(number: &str, words: &HashSet<String>) -> bool {
    let (part, digits) = number.split_at(1);
    let part = part.to_lowercase();
    [
        number.to_owned(),
        format!("{part}{digits}"),
        format!("{part}{digits:0>3}"),
    ]
    .iter()
    .any(|word| words.contains(word))
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
    let words = words_of_tests();
    let mut wrong = BTreeMap::new();
    for (number, last) in rows() {
        let names_a_test = last.contains(".rs`") || last.contains(".rs ");
        match last.as_str() {
            _ if names_a_test && is_said(&number, &words) => {}
            _ if names_a_test => {
                wrong.insert(number, "names a test, but no test says its number");
            }
            reason if reason.split_whitespace().count() >= 4 => {}
            _ => {
                wrong.insert(number, "has neither a test nor a reason");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
