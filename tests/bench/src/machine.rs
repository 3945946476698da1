//! Describes the machine of a run, because figures of two machines cannot be compared.

use std::{env, fs};

use serde_json::{Value, json};
use tokio::process::Command;

/// Describes a machine and the programs that took part.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    /// The names and versions of the compiler, the load generators and the other stacks, if they
    /// are there.
    programs: Vec<(&'static str, String)>,
}

impl Machine {
    /// Describes this machine.
    pub(crate) async fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut programs = Vec::new();
        let envoy = env::var("ENVOY").unwrap_or_default();
        let candidates = [
            ("rustc", "rustc", "--version"),
            ("wrk", "wrk", "-v"),
            ("h2load", "h2load", "--version"),
            ("Envoy", &envoy, "--version"),
            ("Go", "go", "version"),
        ];
        for (name, program, argument) in candidates {
            if let Some(version) = version(program, argument).await {
                programs.push((name, version));
            }
        }
        let peer = env::var("GO_SPIFFE").is_ok_and(|path| !path.is_empty());
        let version = go_spiffe(include_str!("../../interop/go-spiffe/go.mod")).filter(|_| peer);
        programs.extend(version.map(|version| ("go-spiffe", version.to_owned())));
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            programs,
        }
    }

    /// Returns the description for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let programs = self.programs.iter();
        let programs: Vec<_> = programs
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        vec![
            format!("{}, {} cores, Linux {}.", self.cpu, self.cores, self.kernel),
            format!("{}.", programs.join(", ")),
        ]
    }

    /// Returns the description for machines.
    pub(crate) fn json(&self) -> Value {
        let programs = self.programs.iter();
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "programs": programs
                .map(|(name, version)| ((*name).to_owned(), json!(version)))
                .collect::<serde_json::Map<_, _>>(),
        })
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            cpu: "A CPU".to_owned(),
            cores: 2,
            kernel: "6.1".to_owned(),
            programs: vec![("wrk", "4.1.0".to_owned())],
        }
    }
}

/// Returns the first version number that a program prints. wrk prints its own and fails.
pub(crate) async fn version(program: &str, argument: &str) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.arg(argument).kill_on_drop(true).output().await;
    let output = output.ok()?;
    let text = [output.stdout, output.stderr].concat();
    // Some programs print their path first, which may contain a number.
    let text = String::from_utf8_lossy(&text).replace(program, "");
    first_version(&text).map(str::to_owned)
}

/// Finds two or more numbers with dots between them: `4.1.0` in `debian/4.1.0-3`, `1.24` in
/// `go1.24`.
fn first_version(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
}

fn cpu_model(cpuinfo: &str) -> &str {
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    model.map_or("unknown CPU", |rest| {
        rest.trim_start_matches([' ', '\t', ':'])
    })
}

fn go_spiffe(go_mod: &str) -> Option<&str> {
    let (_, rest) = go_mod.split_once("go-spiffe/v2 v")?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        for (text, expected) in [
            ("rustc 1.95.0 (59807616e 2026-04-14)", "1.95.0"),
            ("wrk debian/4.1.0-3+b2 [epoll]", "4.1.0"),
            ("h2load nghttp2/1.52.0", "1.52.0"),
            ("go version go1.24.1 linux/amd64", "1.24.1"),
            ("envoy  version: abc0/1.40.0/Clean/RELEASE", "1.40.0"),
        ] {
            assert_eq!(first_version(text), Some(expected));
        }
        assert_eq!(first_version("no version"), None);
        assert_eq!(go_spiffe("require x/go-spiffe/v2 v2.9.0\n"), Some("2.9.0"));
    }

    #[test]
    fn name_of_the_cpu_is_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\n";
        assert_eq!(cpu_model(cpuinfo), "AMD EPYC 9R14");
        assert_eq!(cpu_model(""), "unknown CPU");
    }
}
