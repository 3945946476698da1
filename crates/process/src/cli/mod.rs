//! The command line that the binaries share: environment variables, value parsers, common flags.

mod parse;
mod serve;

use std::{process::ExitCode, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};
use common::{
    tls,
    workload::{self, Address, Reason, WorkloadApi},
};
use tracing::level_filters::LevelFilter;

pub use self::{
    parse::{
        audience, duration, https_url, listen_address, positive, upstream, whole_number,
        workload_id,
    },
    serve::ServeArgs,
};
use crate::{
    protect, runtime,
    telemetry::{self, LogFormat},
};

/// What every binary's `main` does: reads flags and environment, starts logs and crypto, runs.
///
/// Every flag has an environment variable: `prefix`, `_`, its name. Bad input ends the process with
/// status 2 before anything else happens; a failure of `run` is logged once and is status 1.
pub fn main<C, F>(prefix: &str, default_level: LevelFilter, run: impl FnOnce(C) -> F) -> ExitCode
where
    C: CommandFactory + FromArgMatches + AsRef<LogArgs>,
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let mut command = with_environment(C::command(), prefix);
    let config = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| C::from_arg_matches(&matches))
        .unwrap_or_else(|error| with_origin(error, &command).format(&mut command).exit());
    if let Err(error) = telemetry::init(config.as_ref().log_format, default_level) {
        command.error(ErrorKind::InvalidValue, error).exit();
    }
    protect::forbid_core_dumps();
    tls::install_crypto_provider();
    let status = runtime::run(run(config));
    telemetry::flush();
    status
}

/// Gives every argument an environment variable, unless it has one of its own.
fn with_environment(command: clap::Command, prefix: &str) -> clap::Command {
    command.mut_args(|arg| match arg.get_env() {
        Some(_) => arg,
        None => {
            let name = arg
                .get_long()
                .unwrap_or_else(|| arg.get_id().as_str())
                .to_ascii_uppercase()
                .replace('-', "_");
            arg.env(format!("{prefix}_{name}")).hide_env(true)
        }
    })
}

/// A bad value that came from the environment is hard to find by the name of a flag: says so.
fn with_origin(mut error: clap::Error, command: &clap::Command) -> clap::Error {
    let context = [ContextKind::InvalidArg, ContextKind::InvalidValue].map(|kind| error.get(kind));
    let variable = match context {
        [
            Some(ContextValue::String(arg)),
            Some(ContextValue::String(value)),
        ] => command
            .get_arguments()
            .find(|known| known.to_string() == *arg)
            .and_then(|known| known.get_env())
            .filter(|variable| {
                std::env::var_os(variable)
                    .is_some_and(|text| text.to_string_lossy().contains(value))
            }),
        _ => None,
    };
    if let Some(variable) = variable {
        let tip = format!("the environment variable {} is set", variable.display());
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

/// Adds the flag that mends an identity error, where one does.
#[must_use]
pub fn with_remedy(error: workload::Error) -> anyhow::Error {
    match error.reason() {
        Reason::NoSocket | Reason::NotASocket => anyhow::anyhow!(
            "{error}; --workload-api or SPIFFE_ENDPOINT_SOCKET gives the agent's socket"
        ),
        _ => error.into(),
    }
}

/// Where identity comes from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct WorkloadApiArgs {
    /// Address of the SPIFFE Workload API
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SPIFFE_ENDPOINT_SOCKET",
        hide_env_values = true,
        default_value = "unix:///tmp/agent.sock"
    )]
    workload_api: Address,
}

impl WorkloadApiArgs {
    /// The Workload API that the flags name, given `timeout` to issue an identity.
    #[must_use]
    pub fn workload_api(&self, timeout: Duration) -> WorkloadApi {
        WorkloadApi::new(self.workload_api.clone(), timeout).on_agent(protect::forbid_tracing)
    }
}

/// How to log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs (standard error; RUST_LOG selects what is logged)")]
pub struct LogArgs {
    /// text for people or json for machines
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}
