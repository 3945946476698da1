//! `CONFORMANCE.md` lists what must be accepted and refused. The last cell of a row names the tests
//! of its number, or gives a reason why there is none.
//!
//! A test names a number in its own name (`…_j029`), or in a table or comment within it (`J29`). A
//! program writes the cells from these, so that no row can name a test that does not exist:
//!
//! ```sh
//! CONFORMANCE=write cargo test -p tests --test conformance
//! ```
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Checks the links, paths and flags in documents.
mod documents;
/// Reads and writes the rows of the list.
mod list;
/// Checks the list of what an operator sees.
mod operations;
/// Finds the tests and the numbers that they name.
mod source;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use self::list::{PARTS, Row};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn list() -> PathBuf {
    root().join("tests/CONFORMANCE.md")
}

/// Returns the files of the project, as paths from its root. Builds and repositories are left out.
fn files() -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                files.insert(path.strip_prefix(root()).unwrap().to_owned());
            } else if !path.ends_with("target") && !path.ends_with(".git") {
                directories.push(path);
            }
        }
    }
    files
}

#[test]
fn every_number_is_there_once_and_in_order() {
    let text = fs::read_to_string(list()).unwrap();
    let rows = text.lines().filter_map(Row::read);
    let numbers: Vec<_> = rows.map(|row| row.number.to_owned()).collect();
    let expected = PARTS
        .iter()
        .flat_map(|&(part, last)| (1..=last).map(move |n| format!("{part}{n}")));
    assert_eq!(numbers, expected.collect::<Vec<_>>());
}

#[test]
fn every_row_names_exactly_the_tests_that_say_its_number() {
    let text = fs::read_to_string(list()).unwrap();
    let tests = source::tests();
    let (written, faults) = list::written(&text, &tests);
    if env::var_os("CONFORMANCE").is_some_and(|value| value == "write") {
        fs::write(list(), &written).unwrap();
    } else {
        let lines = text.lines().zip(written.lines());
        let stale: Vec<_> = lines.filter(|(now, wanted)| now != wanted).collect();
        assert!(stale.is_empty(), "run with CONFORMANCE=write: {stale:#?}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A file that no module declares is not compiled, so that its tests would prove nothing.
#[test]
fn every_file_with_tests_is_a_module() {
    let root = root();
    for file in source::tests().keys() {
        let path = root.join(file);
        let (stem, directory) = (path.file_stem().unwrap(), path.parent().unwrap());
        let stem = stem.to_str().unwrap();
        if ["main", "lib"].contains(&stem) {
            continue;
        }
        let (module, directory) = match stem {
            "mod" => (
                directory.file_name().unwrap().to_str().unwrap(),
                directory.parent().unwrap(),
            ),
            _ => (stem, directory),
        };
        let parents = ["main.rs", "lib.rs", "mod.rs"].map(|name| directory.join(name));
        let declared = parents.into_iter().chain([directory.with_extension("rs")]);
        let is_declared = declared
            .filter_map(|file| fs::read_to_string(file).ok())
            .any(|text| text.contains(&format!("mod {module};")));
        assert!(is_declared, "{file} is declared by no module");
    }
}
