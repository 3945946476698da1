//! The output of a doctor, with times and other random parts replaced.

use std::process::Output;

use harness::{binary, process};
use serde_json::Value;

/// The steps of a server or a proxy with a good identity.
pub(crate) const GOOD_IDENTITY: &str = "\
ok         socket        unix:///agent.sock accepts
ok         permission    this user may connect; the agent runs as uid UID
ok         identity      spiffe://example.org/server
ok         svid          X.509-SVID SERIAL until TIME (in SPAN)
ok         fit           callers of the own trust domain verify it
ok         dns-names     localhost, for callers that verify a host name
ok         x509-bundles  example.org (1 authority)
";

/// Returns the expected text: these parts, with the user of this process.
pub(crate) fn expected(parts: &[&str]) -> String {
    let uid = nix::unistd::geteuid().to_string();
    parts.concat().replace("UID", &uid)
}

/// The output of a process that was run with `--doctor`.
pub(crate) struct Diagnosis {
    pub(crate) status: i32,
    /// Standard output, without its random parts.
    pub(crate) text: String,
}

impl Diagnosis {
    /// Runs a binary with `--doctor` and these flags.
    pub(crate) async fn of(name: &str, endpoint: &str, args: &[&str]) -> Self {
        let output = process::output(name, endpoint, &[&["--doctor"], args].concat()).await;
        Self::read(name, endpoint, &output)
    }

    /// Reads the output of a process.
    pub(crate) fn read(name: &str, endpoint: &str, output: &Output) -> Self {
        let errors = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(errors, "", "a doctor prints its verdicts alone");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(!text.contains("eyJ"), "a token was printed: {text}");
        Self {
            status: output.status.code().unwrap(),
            text: without_times(&without_paths(name, endpoint, &text)),
        }
    }

    /// Returns the text with this port replaced.
    pub(crate) fn with_port(&self, port: u16) -> String {
        self.text.replace(&format!(":{port}"), ":PORT")
    }

    /// Returns the lines of the first step of this name: its verdict, and cause and remedy if it is bad.
    pub(crate) fn step(&self, name: &str) -> String {
        self.first(|line| line[11..].starts_with(name))
    }

    /// Returns the lines of the first step that `is` one by its line.
    fn first(&self, is: impl Fn(&str) -> bool) -> String {
        let mut lines = self.text.lines();
        let first = lines.find(|line| line.is_char_boundary(11) && line.len() > 11 && is(line));
        let first = first.unwrap_or_else(|| panic!("no such step:\n{}", self.text));
        let below = lines.take_while(|line| line.starts_with(' '));
        let all: Vec<_> = std::iter::once(first).chain(below).collect();
        all.join("\n")
    }

    /// Checks the exit status, and that the step is the first that failed, with this cause.
    pub(crate) fn failed(&self, status: i32, name: &str, cause: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        let step = self.first(|line| line.starts_with("failed "));
        assert!(step[11..].starts_with(name), "{}", self.text);
        assert!(step.contains(cause), "{step}");
        let end = format!("the first is {name} (exit status {status})\n");
        assert!(self.text.ends_with(&end), "{}", self.text);
    }
}

/// Replaces the paths of the socket and of the binary.
pub(crate) fn without_paths(name: &str, endpoint: &str, text: &str) -> String {
    let executable = binary(name).canonicalize().unwrap();
    let text = text.replace(endpoint, "unix:///agent.sock");
    text.replace(&executable.display().to_string(), "/bin/it")
}

/// Replaces times, their distance from now, and serial numbers.
pub(crate) fn without_times(text: &str) -> String {
    let is_time = |word: &str| word.len() == 20 && word.starts_with("20") && word.ends_with('Z');
    let is_serial = |word: &str| word.len() > 20 && word.split(':').all(|part| part.len() == 2);
    let line = |line: &str| {
        let words = line.split(' ').map(|word| match word {
            word if is_time(word) => "TIME",
            word if is_serial(word) => "SERIAL",
            word => word,
        });
        let mut line = words.collect::<Vec<_>>().join(" ");
        if let Some((before, after)) = line.split_once("(in ")
            && let Some((_, after)) = after.split_once(')')
        {
            line = format!("{before}(in SPAN){after}");
        }
        line + "\n"
    };
    text.lines().map(line).collect()
}

/// Returns the JSON of a doctor, and checks its members.
pub(crate) async fn json(name: &str, endpoint: &str, args: &[&str]) -> Value {
    let args = [&["--doctor", "--json"], args].concat();
    let output = process::output(name, endpoint, &args).await;
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = u64::try_from(output.status.code().unwrap()).unwrap();
    assert_eq!(json["exit_status"], status);
    assert_eq!(json["binary"], name);
    for step in json["steps"].as_array().unwrap() {
        let is_bad = ["warning", "failed"].contains(&step["verdict"].as_str().unwrap());
        assert_eq!(step["cause"].is_string(), is_bad, "{step}");
        assert_eq!(step["remedy"].is_string(), is_bad, "{step}");
        assert!(
            step["text"].is_string() && step["kind"].is_string(),
            "{step}"
        );
    }
    assert!(!json.to_string().contains("eyJ"), "a token was printed");
    json
}
