//! Checks what documents say about the tree: their links, the files that the guide to the code names, and the flags.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use harness::binary;

use crate::{files, root};

/// Returns the documents, with their texts.
fn documents(files: &BTreeSet<PathBuf>) -> Vec<(&Path, String)> {
    let documents = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    documents
        .map(|file| {
            (
                file.as_path(),
                fs::read_to_string(root().join(file)).unwrap(),
            )
        })
        .collect()
}

/// Returns the lines of a document that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Returns what stands between `open` and `close` in a line, each time.
fn between<'a>(line: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    let parts = line.split(open).skip(1);
    parts.filter_map(move |part| part.split_once(close).map(|(inner, _)| inner))
}

/// Returns the fragments by which links name the headings of a document.
fn fragments(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let title = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter_map(|character| match character {
                ' ' => Some('-'),
                '-' | '_' => Some(character),
                _ => character.is_alphanumeric().then_some(character),
            });
            kept.collect()
        })
        .collect()
}

/// Returns the fault of a link in `document`, if it has one.
fn fault(document: &Path, text: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = root().join(document.parent().unwrap()).join(path);
    let text = if path.is_empty() {
        text.to_owned()
    } else if !target.exists() {
        return Some(format!("{}: {link}: no such file", document.display()));
    } else if fragment.is_empty() {
        return None;
    } else {
        fs::read_to_string(target).unwrap()
    };
    let is_there = fragments(&text).contains(fragment);
    (!is_there).then(|| format!("{}: {link}: no such heading", document.display()))
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() {
    let files = files();
    let mut links = 0;
    let mut faults = Vec::new();
    for (document, text) in documents(&files) {
        let fences = text
            .lines()
            .filter(|line| line.trim_start().starts_with("```"));
        assert_eq!(
            fences.count() % 2,
            0,
            "{}: a block of code has no end",
            document.display()
        );
        for link in prose(&text).flat_map(|line| between(line, "](", ')')) {
            links += 1;
            faults.extend(fault(document, &text, link));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(links > 100, "{links} links were found");
}

/// Returns the paths that a line of the guide names, each with the crate of the last whole path before it.
fn named_in(line: &str) -> Vec<(PathBuf, &str)> {
    let mut within = PathBuf::new();
    let spans = line.split('`').skip(1).step_by(2);
    let paths = spans.filter(|span| {
        let first = span.split('/').next().unwrap();
        let is_whole = !first.is_empty() && first != *span && root().join(first).is_dir();
        (is_whole || span.ends_with(".rs")) && !span.contains(' ')
    });
    let located = paths.map(|path| {
        if root().join(path).exists() {
            within = Path::new(path).components().take(2).collect();
        }
        (within.clone(), path)
    });
    located.collect()
}

#[test]
fn each_source_that_the_guide_names_is_there() {
    let files = files();
    let guide = fs::read_to_string(root().join(".github/CONTRIBUTING.md")).unwrap();
    let named: Vec<_> = prose(&guide).flat_map(named_in).collect();
    assert!(named.len() > 100, "{named:?}");
    let is_missing = |(within, path): &&(PathBuf, &str)| {
        let is_it = |file: &PathBuf| file.starts_with(within) && file.ends_with(path);
        !root().join(path).exists() && !files.iter().any(is_it)
    };
    let missing: Vec<_> = named.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Returns the long flags that a help text lists. The text of a flag has a deeper indentation.
fn flags(help: &str) -> Vec<&str> {
    let listed = help.lines().filter_map(|line| {
        let flag = line.trim_start();
        let is_listed = flag.starts_with('-') && line.len() - flag.len() < 8;
        is_listed.then(|| flag.split_once("--"))?
    });
    listed.map(|(_, flag)| name_of(flag)).collect()
}

/// Returns the name that `text` begins with, for example of a flag.
fn name_of(text: &str) -> &str {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '-';
    text.split(|character| !is_part(character)).next().unwrap()
}

#[test]
fn each_flag_is_in_a_document() {
    let files = files();
    let documents = documents(&files);
    // Other documents have flags of other programs, and those of the past.
    let is_for_users = |path: &Path| {
        let directories = ["deploy", "crates/dev-agent"];
        path == Path::new("README.md") || directories.iter().any(|one| path.starts_with(one))
    };
    let named: BTreeSet<_> = documents
        .iter()
        .filter(|(path, _)| is_for_users(path))
        .flat_map(|(_, text)| text.split("--").skip(1).map(name_of))
        .collect();
    for name in ["server", "proxy", "client", "dev-agent"] {
        let help = Command::new(binary(name)).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let flags = flags(&help);
        assert!(flags.len() > 5, "{name}: {flags:?}");
        let is_missing =
            |flag: &&&str| !["help", "version"].contains(flag) && !named.contains(*flag);
        let missing: Vec<_> = flags.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "{name}: no document has {missing:?}");
    }
}
