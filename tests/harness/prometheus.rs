//! Runs Prometheus with the alert rules of `deploy/` and shorter times.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    admin::Admin, installed::is_installed, process::Process, results::ROOT, wait::until_some,
};

/// The text before each time in a rule.
const BEFORE_TIMES: [&str; 3] = ["[", "for: ", "offset "];

/// A Prometheus that scrapes processes.
pub struct Prometheus {
    api: Admin,
    _process: Process,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts it with these targets. A minute of the rules takes `minute`. Returns `None` and skips the test if it is
    /// not installed.
    pub async fn start(targets: &[&Admin], minute: Duration) -> Option<Self> {
        if !is_installed("prometheus", "--version").await {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let rules = Path::new(ROOT).join("deploy/prometheus/alerts.yml");
        let rules = shortened(&fs::read_to_string(rules).unwrap(), minute);
        fs::write(directory.path().join("alerts.yml"), rules).unwrap();
        let addresses: Vec<_> = targets.iter().map(|one| one.address()).collect();
        // JSON is YAML too.
        let config = json!({
            "global": { "scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms" },
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{ "job_name": "spiffe-jwt-proxy", "static_configs": [{ "targets": addresses }] }],
        });
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .kill_on_drop(true);
        let process = Process::spawn(command);
        let line = process.logged("msg=\"Listening on\"").await;
        let (_, address) = line.split_once(" address=").unwrap();
        process.logged("Server is ready").await;
        Some(Self {
            api: Admin::Ip(address.trim().to_owned()),
            _process: process,
            _directory: directory,
        })
    }

    /// Waits until an alert with these labels fires, and returns its annotations. `meanwhile` runs before each query.
    pub async fn fires(
        &self,
        alert: &str,
        labels: &[(&str, &str)],
        mut meanwhile: impl AsyncFnMut(),
    ) -> Value {
        until_some(async || {
            meanwhile().await;
            let alerts = self.alerts().await;
            let found = alerts.iter().find(|one| {
                let has = |(name, value): &(&str, &str)| one["labels"][*name] == *value;
                let is_it = one["labels"]["alertname"] == alert && labels.iter().all(has);
                is_it && one["state"] == "firing"
            });
            found.map(|one| one["annotations"].clone())
        })
        .await
    }

    /// Returns the alerts of a target that fire, or that will.
    pub async fn of(&self, target: &Admin) -> Vec<String> {
        let alerts = self.alerts().await.into_iter();
        let own = alerts.filter(|one| one["labels"]["instance"] == target.address());
        let names = own.map(|one| one["labels"]["alertname"].as_str().unwrap().to_owned());
        names.collect()
    }

    async fn alerts(&self) -> Vec<Value> {
        let answer = self.api.get("/api/v1/alerts").await;
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        answer["data"]["alerts"].as_array().unwrap().clone()
    }
}

/// Returns rules whose minutes take `minute`.
fn shortened(rules: &str, minute: Duration) -> String {
    let (mut short, mut rest) = (String::new(), rules);
    let next = |rest: &str| {
        let ends = BEFORE_TIMES.map(|text| Some(rest.find(text)? + text.len()));
        ends.into_iter().flatten().min()
    };
    while let Some(end) = next(rest) {
        short += &rest[..end];
        rest = &rest[end..];
        let digits = rest.len()
            - rest
                .trim_start_matches(|one: char| one.is_ascii_digit())
                .len();
        let minutes = match (rest[..digits].parse::<u32>(), rest[digits..].chars().next()) {
            (Ok(number), Some('m')) => number,
            (Ok(number), Some('h')) => number * 60,
            _ => continue,
        };
        short += &format!("{}ms", (minute * minutes).as_millis());
        rest = &rest[digits + 1..];
    }
    short + rest
}

#[test]
fn shortened_rules_differ_in_their_times_only() {
    let rules = "expr: a[5m] > 5 * rate(b[1h] offset 5m) and c < 600\nfor: 2m\nlabels: {d: e5m}";
    let short = "expr: a[500ms] > 5 * rate(b[6000ms] offset 500ms) and c < 600\nfor: 200ms\nlabels: {d: e5m}";
    assert_eq!(shortened(rules, Duration::from_millis(100)), short);
}
