//! Reads the metrics of a process.

use std::collections::BTreeMap;

use crate::{
    admin::Admin,
    wait::{until, until_some},
};

/// The samples of a page by name and labels, without the role.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    samples: BTreeMap<String, f64>,
}

impl Page {
    /// Reads the page.
    pub async fn of(admin: &Admin) -> Self {
        let answer = admin.get("/metrics").await;
        assert_eq!(answer.status, 200);
        let kind = answer.headers["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = name.split_once("{role=\"").unwrap();
            let (_, labels) = labels.split_once('"').unwrap();
            let labels = labels.trim_start_matches(',').trim_end_matches('}');
            let name = match labels {
                "" => name.to_owned(),
                labels => format!("{name}{{{labels}}}"),
            };
            (name, value.parse().unwrap())
        });
        Self {
            samples: samples.collect(),
        }
    }

    /// Waits until a sample has this value, and returns the page.
    pub async fn wait_for(admin: &Admin, name: &str, value: f64) -> Self {
        let page = until_some(async || {
            let page = Self::of(admin).await;
            (page.samples.get(name) == Some(&value)).then_some(page)
        });
        page.await
    }

    /// Waits until no request and no connection is open, and returns the page.
    pub async fn wait_until_quiet(admin: &Admin) -> Self {
        until(async || Self::of(admin).await.at("spiffe_connections_open") == 0.0).await;
        let page = Self::of(admin).await;
        for state in ["working", "waiting"] {
            let name = format!("spiffe_requests_in_flight{{state=\"{state}\"}}");
            assert_eq!(page.at(&name), 0.0);
        }
        page
    }

    /// Returns the value of a sample.
    pub fn at(&self, name: &str) -> f64 {
        let value = self.samples.get(name);
        *value.unwrap_or_else(|| panic!("{name} is not in {:#?}", self.samples))
    }

    /// Returns the value of a sample, if there is one.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.samples.get(name).copied()
    }

    /// Returns all samples of a metric whose value is not zero, by their labels.
    pub fn all(&self, name: &str) -> BTreeMap<&str, f64> {
        let samples = self.samples.iter().filter(|(_, value)| **value != 0.0);
        let samples = samples.filter_map(|(sample, value)| {
            let labels = sample.strip_prefix(name)?.strip_prefix('{')?;
            Some((labels.trim_end_matches('}'), *value))
        });
        samples.collect()
    }

    /// Asserts that these, and no others, are the samples of a metric that are not zero.
    #[track_caller]
    pub fn assert_all(&self, name: &str, expected: &[(&str, f64)]) {
        assert_eq!(self.all(name), expected.iter().copied().collect(), "{name}");
    }

    /// Returns the sum of all samples of a metric.
    pub fn sum(&self, name: &str) -> f64 {
        self.all(name).values().sum()
    }
}
