//! The metrics of a process, in Prometheus' text format.
//!
//! Each part of a process adds a source, which writes its metrics whenever they are asked for. The names, the
//! help texts and the labels are here. The crates that count know nothing of Prometheus. No label has a value that
//! a caller chooses.
//!
//! - `page`: the text format
//! - `listener`, `callers`, `upstream`, `identity`, `token`, `own`: the metrics of one part each

mod callers;
mod identity;
mod listener;
mod own;
mod page;
#[cfg(test)]
mod tests;
mod token;
mod upstream;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::SystemTime,
};

use common::{
    bearer,
    lock::lock,
    workload::{Monitor, tokens::TokenMonitor},
};
use forward::outbound::Upstream;
use serve::Shared;

use self::page::Page;
use super::conditions::Conditions;

/// The metrics of a process. Clones have the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    role: OnceLock<&'static str>,
    started: SystemTime,
    conditions: Conditions,
    sources: Mutex<Vec<Source>>,
    tokens: Mutex<Vec<Token>>,
}

type Source = Arc<dyn Fn(&mut Page) + Send + Sync>;

/// The audiences of a token, and its state.
type Token = (String, TokenMonitor);

impl Metrics {
    /// Returns the metrics of a process that has these conditions, and starts now.
    pub(super) fn new(conditions: Conditions) -> Self {
        Self(Arc::new(Inner {
            role: OnceLock::new(),
            started: SystemTime::now(),
            conditions,
            sources: Mutex::default(),
            tokens: Mutex::default(),
        }))
    }

    /// Sets the role of the process, which is a label of its metrics.
    pub fn role(&self, role: &'static str) {
        // A process has one role.
        let _ = self.0.role.set(role);
    }

    /// Adds the metrics of a listener.
    pub(super) fn listener(&self, shared: &Shared) {
        let shared = shared.clone();
        self.add(move |page| listener::write(&shared, page));
    }

    /// Adds the metrics of an authenticator.
    pub fn callers(&self, counts: &Arc<bearer::Counts>) {
        let counts = Arc::clone(counts);
        self.add(move |page| callers::write(&counts, page));
    }

    /// Adds the metrics of upstreams that share their counts.
    pub fn upstreams<'a>(&self, upstreams: impl IntoIterator<Item = &'a Upstream>) {
        let upstreams: Vec<_> = upstreams.into_iter().cloned().collect();
        self.add(move |page| upstream::write(&upstreams, page));
    }

    /// Adds the metrics of an identity.
    pub(super) fn identity(&self, monitor: &Monitor) {
        let monitor = monitor.clone();
        self.add(move |page| identity::write(&monitor, page));
    }

    /// Adds the metrics of a token for these audiences.
    pub fn token(&self, audiences: &[String], monitor: TokenMonitor) {
        lock(&self.0.tokens).push((audiences.join(","), monitor));
    }

    fn add(&self, source: impl Fn(&mut Page) + Send + Sync + 'static) {
        lock(&self.0.sources).push(Arc::new(source));
    }

    /// Returns the page.
    pub(super) fn text(&self) -> String {
        let role = self.0.role.get().copied().unwrap_or("starting");
        let mut page = Page::new(role);
        own::write(self.0.started, &self.0.conditions.report(), &mut page);
        let sources = lock(&self.0.sources).clone();
        sources.iter().for_each(|source| source(&mut page));
        let tokens = lock(&self.0.tokens).clone();
        let tokens = tokens.iter();
        let tokens = tokens.filter_map(|(audience, one)| Some((audience.as_str(), one.status()?)));
        token::write(tokens, &mut page);
        page.into_text()
    }
}

/// Returns the metrics of a process without conditions.
impl Default for Metrics {
    fn default() -> Self {
        Self::new(Conditions::default())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = lock(&self.0.sources).len();
        f.debug_struct("Metrics")
            .field("sources", &sources)
            .finish()
    }
}
