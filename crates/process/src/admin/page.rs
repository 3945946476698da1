//! The status page: a process's identity, conditions and refusals. It needs no script.

mod parts;
#[cfg(test)]
mod tests;
mod times;

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use common::{
    lock::lock,
    throttle::{LogQuotas, RefusedRequest},
    workload::{Monitor, Overview},
};
use maud::{DOCTYPE, Markup, html};

use self::times::{duration, since};
use super::conditions::{Report, State};

/// The path of the style sheet, which the page needs because its policy forbids styles in the page.
pub(super) const STYLE_PATH: &str = "/style.css";
pub(super) const STYLE: &str = include_str!("page.css");

/// The query of a page that does not refresh itself.
pub(super) const NO_REFRESH: &str = "refresh=off";

/// The time after which a browser loads the page again, in seconds.
const REFRESH: &str = "5";

/// The parts of a process that the page shows. Clones show the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<Parts>>);

#[derive(Clone, Debug)]
struct Parts {
    started: SystemTime,
    identity: Option<Monitor>,
    refusals: Option<Arc<LogQuotas>>,
    /// The peers that each listener is for, and its addresses.
    listeners: Vec<(String, String)>,
}

/// Everything on the page at one moment.
struct View<'a> {
    report: &'a Report,
    started: SystemTime,
    overview: Option<Arc<Overview>>,
    changes: Vec<(SystemTime, String)>,
    refused: Option<Vec<RefusedRequest>>,
    listeners: Vec<(String, String)>,
}

impl Shown {
    /// Shows the identity that `monitor` follows.
    pub(super) fn identity(&self, monitor: &Monitor) {
        lock(&self.0).identity = Some(monitor.clone());
    }

    /// Shows the last requests that were not served.
    pub(super) fn refusals(&self, quotas: &Arc<LogQuotas>) {
        lock(&self.0).refusals = Some(Arc::clone(quotas));
    }

    /// Shows a listener.
    pub(super) fn listener(&self, peers: &str, addresses: &str) {
        let listener = (peers.to_owned(), addresses.to_owned());
        lock(&self.0).listeners.push(listener);
    }

    fn view<'a>(&self, report: &'a Report) -> View<'a> {
        let parts = lock(&self.0).clone();
        let identity = parts.identity.as_ref();
        View {
            report,
            started: parts.started,
            overview: identity.map(Monitor::overview),
            changes: identity.map(Monitor::changes).unwrap_or_default(),
            refused: parts.refusals.map(|quotas| quotas.recent.list()),
            listeners: parts.listeners,
        }
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            identity: None,
            refusals: None,
            listeners: Vec::new(),
        }
    }
}

/// Returns the page, with links to `paths`. A browser loads it again every few seconds if it `refreshes`.
pub(super) fn render(
    report: &Report,
    shown: &Shown,
    paths: &[(&str, &str)],
    refreshes: bool,
) -> String {
    let view = shown.view(report);
    let state = report.state();
    let title = format!("{} is {}", program(), state.of_process());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if refreshes {
                    meta http-equiv="refresh" content=(REFRESH);
                }
                title { (title) }
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body {
                (head(&view, state))
                main { (sections(&view)) }
                (foot(paths, refreshes))
            }
        }
    };
    page.into_string()
}

fn head(view: &View<'_>, state: State) -> Markup {
    let report = view.report;
    html! {
        header {
            h1 { (program()) }
            p class=(format!("state {state}")) {
                (state.of_process())
                @if let Some(left) = report.left() {
                    ", " (duration(left)) " left"
                }
            }
            p class="about" {
                "version " (env!("CARGO_PKG_VERSION")) ", process " (std::process::id())
                ", up for " (duration(since(view.started, report.now)))
            }
        }
    }
}

fn sections(view: &View<'_>) -> Markup {
    let now = view.report.now;
    html! {
        (parts::conditions(view.report))
        @if let Some(overview) = &view.overview {
            (parts::identity(overview, now))
            (parts::trust(overview, now))
        }
        (parts::listeners(&view.listeners))
        @if let Some(refused) = &view.refused {
            (parts::refused(refused, now))
        }
        @if view.overview.is_some() {
            (parts::changes(&view.changes, now))
        }
    }
}

fn foot(paths: &[(&str, &str)], refreshes: bool) -> Markup {
    let (target, text) = if refreshes {
        (format!("/?{NO_REFRESH}"), "stop refreshing")
    } else {
        ("/".to_owned(), "refresh every 5 seconds")
    };
    html! {
        footer {
            nav {
                @for (path, text) in paths {
                    a href=(path) title=(text) { (path) } " "
                }
                a href=(target) { (text) }
            }
        }
    }
}

fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
