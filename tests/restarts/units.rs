use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use harness::{binary, results::ROOT, skip};

/// The most exposure that `systemd-analyze security` may find.
const MAX_EXPOSURE: f64 = 1.5;

const NAMES: [&str; 3] = ["server", "proxy", "client"];

/// Copies the units into a directory, with the binaries of this build. Returns `None` without systemd.
fn units() -> Option<(tempfile::TempDir, Vec<PathBuf>)> {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        skip("systemd-analyze is not installed: apt-get install systemd");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for name in NAMES {
        for kind in ["service", "socket"] {
            let file = format!("{name}.{kind}");
            let unit = fs::read_to_string(Path::new(ROOT).join("deploy/systemd").join(&file));
            let installed = format!("/usr/local/bin/{name}");
            let built = binary(name);
            let unit = unit.unwrap().replace(&installed, built.to_str().unwrap());
            let path = directory.path().join(file);
            fs::write(&path, unit).unwrap();
            units.push(path);
        }
    }
    Some((directory, units))
}

fn analyze(args: &[&str], units: &[PathBuf]) -> (Output, String) {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(args).args(units).output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    (output, String::from_utf8(text).unwrap())
}

#[test]
fn units_have_no_mistake_that_systemd_finds() {
    let Some((_directory, units)) = units() else {
        return;
    };
    let (output, text) = analyze(&["verify", "--man=no"], &units);
    // systemd also names mistakes in units of this machine.
    let ours = text
        .lines()
        .filter(|line| NAMES.iter().any(|name| line.contains(&format!("{name}."))));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0], "{:?}", output.status);
}

#[test]
fn services_are_exposed_as_little_as_they_can_be() {
    let Some((_directory, units)) = units() else {
        return;
    };
    for unit in units
        .iter()
        .filter(|unit| unit.extension() == Some("service".as_ref()))
    {
        let (_, text) = analyze(
            &["security", "--offline=yes", "--no-pager"],
            std::slice::from_ref(unit),
        );
        let level = text
            .lines()
            .find_map(|line| line.split_once("exposure level for "));
        let (_, level) = level.unwrap_or_else(|| panic!("{text}"));
        let score: f64 = level.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(score <= MAX_EXPOSURE, "{level}");
    }
}
