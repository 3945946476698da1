//! Replays the seeds of the fuzz targets (`tests/fuzz/seeds`), which include inputs that fuzzing
//! found.

use std::{
    fs,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use super::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files
}

/// Runs every seed, so that the failure names all seeds that fail.
fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = files(&fuzz().join("seeds").join(target));
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let failed: Vec<_> = seeds
        .iter()
        .filter(|seed| {
            let input = fs::read(seed).unwrap();
            catch_unwind(AssertUnwindSafe(|| run(&input))).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let _ = writeln!(std::io::stderr(), "{target}: {} seeds", seeds.len());
}

#[test]
fn seeds_of_bearer_find_no_fault() {
    replay("bearer");
}

#[test]
fn seeds_of_cleaning_find_no_fault() {
    replay("cleaning");
}

#[test]
fn seeds_of_oracle_find_no_fault() {
    replay("oracle");
}

#[test]
fn seeds_of_workload_api_find_no_fault() {
    replay("workload_api");
}

/// A target without seeds, and seeds without a target, would never be replayed.
#[test]
fn each_target_has_seeds_and_each_directory_of_seeds_a_target() {
    let names = |directory: &str| -> Vec<String> {
        let paths = files(&fuzz().join(directory));
        let names = paths.iter().map(|path| path.file_stem().unwrap());
        names
            .map(|name| name.to_str().unwrap().to_owned())
            .collect()
    };
    let targets = TARGETS.map(|(name, _)| name);
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
}
