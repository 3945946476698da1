//! A diagnosis: steps that are tried one after another. Each has a verdict, and a bad one has its cause and
//! remedy.
//!
//! - [`Doctor`]: the verdicts so far, their output as text or JSON, and the exit status
//! - [`workload`]: the steps of the Workload API · [`upstream`]: the steps to an upstream · [`listening`]: those of
//!   a process that serves
//! - `permission`: the permission to use a socket · [`words`]: times in words

pub mod listening;
mod permission;
#[cfg(test)]
mod tests;
pub mod upstream;
pub mod words;
pub mod workload;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use common::sanitize::on_a_line;
use serde::Serialize;
use tracing::level_filters::LevelFilter;

/// The diagnosis.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Diagnosis")]
pub struct DoctorArgs {
    /// Try each step that the other flags need, print a verdict for each with cause and remedy, and exit.
    /// The exit status is 0, or that of the first failed step's kind (deploy/diagnosis.md)
    #[arg(long)]
    pub doctor: bool,
    /// Print the verdicts of --doctor as one JSON object
    #[arg(long, requires = "doctor")]
    json: bool,
}

impl DoctorArgs {
    /// Returns the level of log lines. In a diagnosis only errors are logged, because its verdicts say the rest.
    #[must_use]
    pub fn log_level(&self, otherwise: LevelFilter) -> LevelFilter {
        if self.doctor {
            LevelFilter::ERROR
        } else {
            otherwise
        }
    }
}

/// The longest time of each step that has no flag of its own.
pub const STEP: Duration = Duration::from_secs(10);

/// The kind of a step. Its number is the exit status when a step of the kind is the first to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// The socket of the Workload API.
    WorkloadApi = 10,
    /// The identity of this process.
    Identity = 11,
    /// The trust bundles.
    Bundles = 12,
    /// The JWT-SVID.
    Token = 13,
    /// The look-up of a host name.
    Name = 14,
    /// The connection to an address or a Unix socket.
    Connection = 15,
    /// TLS, and the identity of the peer.
    Tls = 16,
    /// The refusal of the token or of the caller.
    Refused = 17,
    /// The answer of the peer.
    Answer = 18,
    /// The own address to listen on.
    Listen = 19,
    /// A file that a flag names.
    File = 20,
    /// A limit of the system.
    Limits = 21,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The step is good. The text says what was found.
    Ok(String),
    /// The process runs, but something should be checked.
    Warning(Trouble),
    /// The process would not run, or its requests would fail.
    Failed(Trouble),
    /// The step needs another one that failed. The text names it.
    NotTried(&'static str),
}

/// A fault, with its cause and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The words for what was tried.
    pub tried: String,
    /// The words of the error.
    pub cause: String,
    /// The words for what helps.
    pub remedy: String,
}

impl Trouble {
    /// Returns a trouble of these words.
    pub fn new(tried: impl Into<String>, cause: impl ToString, remedy: impl Into<String>) -> Self {
        Self {
            tried: tried.into(),
            cause: cause.to_string(),
            remedy: remedy.into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
    NotTried,
}

/// A step and its result, as it is in the JSON.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    kind: Kind,
    /// The route that the step is about, if there are several.
    route: Option<String>,
    verdict: Verdict,
    text: String,
    cause: Option<String>,
    remedy: Option<String>,
}

/// The whole diagnosis, as it is in the JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    binary: &'static str,
    version: &'static str,
    verdict: Verdict,
    first_failed: Option<&'static str>,
    exit_status: u8,
    steps: &'a [Step],
}

/// A diagnosis under way.
#[derive(Debug)]
pub struct Doctor {
    binary: &'static str,
    is_json: bool,
    route: Option<String>,
    steps: Vec<Step>,
    /// The first error of the output.
    output: io::Result<()>,
}

impl Doctor {
    /// Begins the diagnosis of a binary.
    #[must_use]
    pub fn new(binary: &'static str, args: &DoctorArgs) -> Self {
        Self {
            binary,
            is_json: args.json,
            route: None,
            steps: Vec::new(),
            output: Ok(()),
        }
    }

    /// Sets the route that the next steps are about.
    pub fn set_route(&mut self, route: Option<String>) {
        self.route = route;
    }

    /// Records a step that was tried or was not. As text it is printed at once.
    pub fn note(&mut self, step: &'static str, kind: Kind, finding: Finding) {
        let (verdict, text, bad) = match finding {
            Finding::Ok(text) => (Verdict::Ok, text, None),
            Finding::NotTried(needs) => (Verdict::NotTried, format!("it needs {needs}"), None),
            Finding::Warning(bad) => (Verdict::Warning, bad.tried, Some((bad.cause, bad.remedy))),
            Finding::Failed(bad) => (Verdict::Failed, bad.tried, Some((bad.cause, bad.remedy))),
        };
        let (cause, remedy) = bad.unzip();
        let step = Step {
            step,
            kind,
            route: self.route.clone(),
            verdict,
            text: on_a_line(&text),
            cause: cause.as_deref().map(on_a_line),
            remedy: remedy.as_deref().map(on_a_line),
        };
        if !self.is_json {
            self.print(&step.lines());
        }
        self.steps.push(step);
    }

    /// Records a step that is good.
    pub fn ok(&mut self, step: &'static str, kind: Kind, text: impl Into<String>) {
        self.note(step, kind, Finding::Ok(text.into()));
    }

    /// Records a step that failed.
    pub fn failed(&mut self, step: &'static str, kind: Kind, trouble: Trouble) {
        self.note(step, kind, Finding::Failed(trouble));
    }

    /// Records a step with a warning.
    pub fn warning(&mut self, step: &'static str, kind: Kind, trouble: Trouble) {
        self.note(step, kind, Finding::Warning(trouble));
    }

    /// Records a step that was not tried, because it `needs` another one.
    pub fn not_tried(&mut self, step: &'static str, kind: Kind, needs: &'static str) {
        self.note(step, kind, Finding::NotTried(needs));
    }

    /// Prints the last line, or the whole diagnosis as JSON. Returns the exit status.
    ///
    /// # Errors
    /// Fails when standard output can't be written to.
    pub fn finish(mut self) -> anyhow::Result<ExitCode> {
        let status = self.exit_status();
        let text = if self.is_json {
            serde_json::to_string_pretty(&self.report())? + "\n"
        } else {
            self.summary()
        };
        self.print(&text);
        self.output.context("cannot write to standard output")?;
        Ok(ExitCode::from(status))
    }

    fn first_failed(&self) -> Option<&Step> {
        self.steps
            .iter()
            .find(|step| step.verdict == Verdict::Failed)
    }

    fn exit_status(&self) -> u8 {
        self.first_failed().map_or(0, |step| step.kind as u8)
    }

    fn report(&self) -> Report<'_> {
        let has = |verdict| self.steps.iter().any(|step| step.verdict == verdict);
        let verdict = match () {
            () if has(Verdict::Failed) => Verdict::Failed,
            () if has(Verdict::Warning) => Verdict::Warning,
            () => Verdict::Ok,
        };
        Report {
            binary: self.binary,
            version: env!("CARGO_PKG_VERSION"),
            verdict,
            first_failed: self.first_failed().map(|step| step.step),
            exit_status: self.exit_status(),
            steps: &self.steps,
        }
    }

    /// Returns the last line.
    fn summary(&self) -> String {
        let count = |verdict| {
            let steps = self.steps.iter();
            steps.filter(|step| step.verdict == verdict).count()
        };
        let warnings = count(Verdict::Warning);
        match self.first_failed() {
            None => format!("no step failed, {warnings} with a warning\n"),
            Some(first) => format!(
                "{} failed, {warnings} with a warning; the first is {} (exit status {})\n",
                count(Verdict::Failed),
                first.step,
                self.exit_status()
            ),
        }
    }

    fn print(&mut self, text: &str) {
        if self.output.is_ok() {
            let mut stdout = io::stdout().lock();
            let written = stdout.write_all(text.as_bytes());
            self.output = written.and_then(|()| stdout.flush());
        }
    }
}

impl Step {
    /// Returns the line of the step, and one each for cause and remedy.
    fn lines(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
            Verdict::NotTried => "not tried",
        };
        let route = self.route.as_deref();
        let route = route.map_or_else(String::new, |route| format!("[{route}] "));
        let mut lines = format!("{verdict:<9}  {:<12}  {route}{}\n", self.step, self.text);
        for (name, text) in [("cause", &self.cause), ("remedy", &self.remedy)] {
            if let Some(text) = text {
                lines += &format!("{:25}{name}: {text}\n", "");
            }
        }
        lines
    }
}
