//! The log: lines on standard error, as text for people or JSON for machines.

mod filter;
mod lines;
mod output;
mod text;

use std::{io, str::FromStr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, filter::Directive, layer::SubscriberExt, util::SubscriberInitExt,
};

pub(crate) use self::filter::{LiveFilter, MAX_FILTER};
pub(crate) use self::lines::{flush, missing};

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line of text, coloured on a terminal.
    #[default]
    Text,
    /// A JSON object on a line.
    Json,
}

/// Starts logging. `RUST_LOG` selects what is logged; without it, `default` and above.
///
/// Warnings of the HTTP/2 library are logged only if `RUST_LOG` selects them. They name no peer,
/// and peers can cause any number of them.
///
/// # Errors
/// Fails when `RUST_LOG` can't be parsed, or when the thread can't be started.
pub fn init(format: LogFormat, default: LevelFilter) -> Result<(), String> {
    let filter = LiveFilter::new(env_filter(default)?);
    let lines = lines::start().map_err(|error| format!("cannot start a thread: {error}"))?;
    filter.publish();
    let logs = tracing_subscriber::fmt::layer()
        .with_timer(text::Utc)
        .with_writer(lines);
    let subscriber = tracing_subscriber::registry();
    match format {
        LogFormat::Text if is_coloured() => {
            subscriber.with(logs.with_target(false)).with(filter).init();
        }
        LogFormat::Text => {
            let logs = logs.with_ansi(false).with_target(false);
            subscriber
                .with(logs.fmt_fields(text::fields()))
                .with(filter)
                .init();
        }
        LogFormat::Json => {
            let logs = logs
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false);
            subscriber.with(logs).with(filter).init();
        }
    }
    Ok(())
}

fn env_filter(default: LevelFilter) -> Result<EnvFilter, String> {
    let filter = EnvFilter::builder()
        .with_default_directive(Directive::from(default))
        .from_env()
        .map_err(|error| {
            format!(
                "invalid value for RUST_LOG: {error}; expected for example {}",
                filter::EXAMPLES
            )
        })?;
    Ok(match std::env::var_os(EnvFilter::DEFAULT_ENV) {
        None => filter.add_directive(Directive::from_str("h2=error").expect("a directive")),
        Some(_) => filter,
    })
}

fn is_coloured() -> bool {
    io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none()
}
