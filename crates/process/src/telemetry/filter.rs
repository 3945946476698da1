//! The filter of the log, which can be replaced while the process runs.
//!
//! `tracing_subscriber::reload` takes a lock twice for each log line. This layer takes one only where a filter
//! selects by spans, or when a callsite is reached for the first time.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tracing::{
    Metadata, Subscriber, callsite, level_filters::LevelFilter, span, subscriber::Interest,
};
use tracing_subscriber::{EnvFilter, Layer, layer::Context};

/// The filter of this process's log, once the log has started.
static CURRENT: OnceLock<LiveFilter> = OnceLock::new();

/// The longest filter that replaces another one, in bytes.
pub(crate) const MAX_FILTER: usize = 4096;

/// The filter of a log. Clones are the same filter.
#[derive(Clone, Debug)]
pub(crate) struct LiveFilter(Arc<RwLock<EnvFilter>>);

impl LiveFilter {
    pub(super) fn new(filter: EnvFilter) -> Self {
        Self(Arc::new(RwLock::new(filter)))
    }

    /// Makes this the filter of the process's log.
    pub(super) fn publish(&self) {
        // A process starts its log once.
        let _ = CURRENT.set(self.clone());
    }

    /// Returns the filter of this process's log, if the log has started.
    pub(crate) fn current() -> Option<&'static Self> {
        CURRENT.get()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// Fails with the reason and an example when the text is not a filter.
    pub(crate) fn replace(&self, text: &str) -> Result<(), String> {
        let filter = parse(text)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = filter;
        // Callsites cache the answer of the last filter.
        callsite::rebuild_interest_cache();
        Ok(())
    }

    fn with<T>(&self, ask: impl FnOnce(&EnvFilter) -> T) -> T {
        ask(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Parses a filter, which is not empty.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    let fault = match text.len() {
        0 => Some("it is empty".to_owned()),
        len if len > MAX_FILTER => Some(format!("it is longer than {MAX_FILTER} bytes")),
        _ => None,
    };
    let parsed = match fault {
        Some(fault) => Err(fault),
        None => EnvFilter::builder()
            .parse(text)
            .map_err(|error| error.to_string()),
    };
    parsed.map_err(|fault| format!("not a log filter: {fault}; expected for example {EXAMPLES}"))
}

/// Examples of filters.
pub(super) const EXAMPLES: &str = "info, debug, or warn,proxy=debug";

/// Writes the directives.
impl std::fmt::Display for LiveFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.with(|filter| write!(f, "{filter}"))
    }
}

impl<S: Subscriber> Layer<S> for LiveFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.with(|filter| Layer::<S>::register_callsite(filter, metadata))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.with(|filter| Layer::<S>::max_level_hint(filter))
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.with(|filter| filter.enabled(metadata, context))
    }

    fn on_new_span(&self, attrs: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        self.with(|filter| filter.on_new_span(attrs, id, context));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        self.with(|filter| filter.on_record(id, values, context));
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        self.with(|filter| filter.on_enter(id, context));
    }

    fn on_exit(&self, id: &span::Id, context: Context<'_, S>) {
        self.with(|filter| filter.on_exit(id, context));
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        self.with(|filter| filter.on_close(id, context));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_a_filter_is_refused_with_the_reason_and_an_example() {
        let live = LiveFilter::new(EnvFilter::new("info"));
        for text in ["debug", " warn,proxy=debug\n", "off", "h2=error"] {
            assert_eq!(live.replace(text), Ok(()), "{text}");
        }
        assert_eq!(live.to_string(), "h2=error");
        for text in [
            "",
            " \n",
            "proxy=loud",
            "a=b=c",
            &"x".repeat(MAX_FILTER + 1),
        ] {
            let error = live.replace(text).unwrap_err();
            assert!(
                error.contains("expected for example info"),
                "{text}: {error}"
            );
        }
        assert_eq!(live.to_string(), "h2=error", "the last good one stays");
    }
}
