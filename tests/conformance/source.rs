//! Finds the tests of the workspace in its source, and the numbers that each of them names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use crate::{files, root};

/// The tests of a file: the name of each, and the numbers that it names.
pub(crate) type Tests = BTreeMap<String, BTreeSet<String>>;

/// Reads the tests in all Rust files of `crates` and `tests`. The key is the path. This test is left out, and so are
/// the fuzz targets, which are not in the workspace.
pub(crate) fn tests() -> BTreeMap<String, Tests> {
    let is_read = |file: &PathBuf| {
        let is_below = |directory| file.starts_with(directory);
        file.extension().is_some_and(|extension| extension == "rs")
            && ["crates", "tests"].into_iter().any(is_below)
            && !["tests/fuzz", "tests/conformance"]
                .into_iter()
                .any(is_below)
    };
    let files = files().into_iter().filter(is_read);
    let tests = files.map(|file| {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        (file.to_str().unwrap().to_owned(), tests_in(&text))
    });
    tests.filter(|(_, tests)| !tests.is_empty()).collect()
}

/// Reads the tests of a file. A test extends from its documentation to its closing brace.
pub(crate) fn tests_in(text: &str) -> Tests {
    let lines: Vec<_> = text.lines().collect();
    let is_test = |line: &str| {
        let line = line.trim_start();
        ["#[test]", "#[tokio::test"]
            .iter()
            .any(|attribute| line.starts_with(attribute))
    };
    let mut tests = Tests::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_test(line)) {
        let indent = &line[..line.len() - line.trim_start().len()];
        let documentation = lines[..at].iter().rev();
        let documentation = documentation.take_while(|line| line.trim_start().starts_with("///"));
        let brace = format!("{indent}}}");
        let body = lines[at..].iter().take_while(|line| **line != brace);
        let name = body.clone().find_map(|line| name(line)).unwrap();
        let numbers = documentation.chain(body).flat_map(|line| numbers(line));
        tests.insert(name.to_owned(), numbers.collect());
    }
    tests
}

/// Returns the name of the function that the line declares.
fn name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_declaration = before
        .trim()
        .split(' ')
        .all(|word| ["", "async", "pub"].contains(&word));
    is_declaration.then(|| after.split(['(', '<']).next())?
}

/// Returns the numbers that a line names: `J29` in a table or a comment, `_j029` in a name.
fn numbers(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric());
    let number = |word: &str| {
        let (part, digits) = word.split_at_checked(1)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_known =
            "JPHWDSTUF".contains(part) || "jphwdstuf".contains(part) && digits.len() == 3;
        let digits = digits.trim_start_matches('0');
        (is_number && is_known).then(|| format!("{}{digits}", part.to_uppercase()))
    };
    words.filter_map(number).collect()
}

#[test]
fn numbers_are_read_from_names_tables_and_comments() {
    let text = r#"
/// Sends what P8 says.
#[tokio::test]
async fn two_lengths_are_refused_p025_d051() {
    for row in [("J29", 1), ("p25", 2)] {}
    // P521 is a curve.
}

mod tests {
    #[test]
    fn nothing() {
        assert!(true);
    }
}
const AFTER: &str = "J30";
"#;
    let tests = tests_in(text);
    let expected = ["D51", "J29", "P25", "P521", "P8"].map(str::to_owned);
    assert_eq!(tests["two_lengths_are_refused_p025_d051"], expected.into());
    assert_eq!(tests["nothing"], BTreeSet::new());
}
