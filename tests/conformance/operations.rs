//! Checks `OPERATIONS.md`: it has a row for each thing that an operator sees, with tests that exist or a reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use common::{label::Label, reason::Reason};
use serve::reason::ConnectionReason;

use crate::{
    root,
    source::{self, Tests},
};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the rows of a section by the text of their first cell, with the cell of their tests.
fn rows(section: &str) -> BTreeMap<String, String> {
    let list = read("tests/OPERATIONS.md");
    let (_, rest) = list.split_once(&format!("\n## {section}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let lines = section.lines().filter_map(|line| {
        let cells = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let (thing, proof) = cells.split_once(" | ").unwrap();
        Some((thing.replacen('`', "", 1), proof.to_owned()))
    });
    let rows: Vec<_> = lines.collect();
    let count = rows.len();
    let rows: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(rows.len(), count, "a row is there twice");
    rows
}

fn things(section: &str) -> BTreeSet<String> {
    rows(section).into_keys().collect()
}

#[test]
fn each_alert_has_a_row() {
    let rules = read("deploy/prometheus/alerts.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.split_once("- alert: "));
    let alerts = alerts.map(|(_, alert)| alert.to_owned()).collect();
    assert_eq!(things("Alerts"), alerts);
}

#[test]
fn each_condition_has_a_row_for_each_state_in_which_something_is_wrong() {
    let page = read("deploy/admin.md");
    let (_, table) = page
        .split_once("| condition | of | degraded | lost |\n")
        .unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("| `"));
    let mut conditions = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.split(" | ").collect();
        let name = cells[0].trim_matches(['|', ' ', '`']);
        for (state, cell) in [("degraded", cells[2]), ("lost", cells[3])] {
            if cell != "–" {
                conditions.insert(format!("{name} {state}"));
            }
        }
    }
    assert_eq!(things("Conditions"), conditions);
}

#[test]
fn each_reason_has_a_row() {
    let of_requests = Reason::ALL.iter().map(|one| one.as_str());
    let of_connections = ConnectionReason::ALL.iter().map(|one| one.as_str());
    let reasons = of_requests.chain(of_connections).map(str::to_owned);
    assert_eq!(things("Reasons"), reasons.collect());
}

#[test]
fn each_metric_has_a_row() {
    let page = read("deploy/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let metrics = rows.map(|row| row.split('`').next().unwrap().to_owned());
    assert_eq!(things("Metrics"), metrics.collect());
}

#[test]
fn each_row_names_tests_that_exist_or_a_reason() {
    let tests = source::tests();
    for section in ["Alerts", "Conditions", "Status lines", "Reasons", "Metrics"] {
        for (thing, proof) in rows(section) {
            let is_reason = !proof.contains(".rs`") && proof.split(' ').count() >= 4;
            assert!(is_reason || are_there(&proof, &tests), "{thing}: {proof}");
        }
    }
}

/// Returns whether all tests of a cell are there: `file` name, name; `file` name.
fn are_there(proof: &str, tests: &BTreeMap<String, Tests>) -> bool {
    proof.split("; ").all(|part| {
        let file_and_names = part
            .strip_prefix('`')
            .and_then(|part| part.split_once("` "));
        file_and_names.is_some_and(|(file, names)| {
            let of_file = tests.get(file);
            let mut names = names.split(", ");
            of_file.is_some_and(|tests| names.all(|name| tests.contains_key(name)))
        })
    })
}
