//! The command line that the binaries share: environment variables, value parsers, common flags.

mod parse;
mod serve;
mod upstream;

use std::{ffi::OsStr, process::ExitCode, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};
use common::{
    tls,
    workload::{self, Address, Choice, Reason, WorkloadApi},
};
use spiffe::SpiffeId;
use tracing::{error, level_filters::LevelFilter};

pub use self::{
    parse::{
        application, audience, clock_skew, duration, https_url, listen_address, positive, upstream,
        whole_number, without_path, workload_id,
    },
    serve::ServeArgs,
    upstream::UpstreamArgs,
};
use crate::{
    notify, protect, runtime,
    sandbox::{self, Confined},
    telemetry::{self, LogFormat},
};

/// The exit status after a usage error.
const USAGE: u8 = 2;

/// Runs a binary: reads flags and environment, starts logs and crypto, and then calls `run`.
///
/// Every flag has an environment variable: `prefix`, `_`, its name. A bad value ends the process
/// with status 2 before anything else happens. The process then enters its sandbox. A failure of `run` is
/// logged once and is status 1.
pub fn main<C, F>(
    prefix: &str,
    default_level: impl FnOnce(&C) -> LevelFilter,
    run: impl FnOnce(C) -> F,
) -> ExitCode
where
    C: CommandFactory + FromArgMatches + AsRef<LogArgs> + Confined,
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let mut command = with_environment(C::command(), prefix);
    let config = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| C::from_arg_matches(&matches))
        .unwrap_or_else(|error| with_origin(error, &command).format(&mut command).exit());
    notify::connect();
    // There must be no other thread yet.
    let entered = sandbox::enter(&config.confinement());
    if let Err(error) = telemetry::init(config.as_ref().log_format, default_level(&config)) {
        command.error(ErrorKind::InvalidValue, error).exit();
    }
    if let Err(error) = entered {
        error!("{error}");
        telemetry::flush();
        return ExitCode::FAILURE;
    }
    protect::forbid_core_dumps();
    let entropy = tls::install_crypto_provider();
    let status = runtime::run(run(config));
    entropy.wait();
    telemetry::flush();
    status
}

/// Prints the reason why flags can't be used together, as clap does for one flag. Returns the exit status.
///
/// # Errors
/// Fails when standard error can't be written to.
pub fn usage_error<C: CommandFactory>(text: &str) -> anyhow::Result<ExitCode> {
    let mut command = C::command();
    command.error(ErrorKind::ValueValidation, text).print()?;
    Ok(ExitCode::from(USAGE))
}

/// Gives every argument an environment variable, unless it already has one.
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

/// Adds the environment variables to an error about a value or about flags that exclude each other, if the
/// values may come from them.
fn with_origin(mut error: clap::Error, command: &clap::Command) -> clap::Error {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => Vec::new(),
    };
    let mut args = named(ContextKind::InvalidArg);
    let value = match error.kind() {
        ErrorKind::ArgumentConflict => {
            args.extend(named(ContextKind::PriorArg));
            String::new()
        }
        _ => match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.clone(),
            _ => return error,
        },
    };
    let variables = command
        .get_arguments()
        .filter(|known| args.contains(&known.to_string()))
        .filter_map(|known| known.get_env())
        .filter(|variable| {
            std::env::var_os(variable).is_some_and(|text| text.to_string_lossy().contains(&value))
        });
    let tip =
        |variable: &OsStr| format!("the environment variable {} is set", variable.display()).into();
    let tips: Vec<_> = variables.map(tip).collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// Adds the flag that corrects an identity error, if there is one.
#[must_use]
pub fn with_remedy(error: workload::Error) -> anyhow::Error {
    match error.reason() {
        Reason::NoSocket | Reason::NotASocket => anyhow::anyhow!(
            "{error}; --workload-api or SPIFFE_ENDPOINT_SOCKET gives the agent's socket"
        ),
        Reason::NotIssued(_) => {
            anyhow::anyhow!("{error}; --spiffe-id or --hint chooses the identity")
        }
        _ => error.into(),
    }
}

/// The Workload API.
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
    /// SPIFFE ID to use if the Workload API issues several [default: the first one at start, for as
    /// long as it is issued]
    #[arg(long, value_name = "ID", value_parser = parse::workload_id, conflicts_with = "hint")]
    spiffe_id: Option<SpiffeId>,
    /// Hint of the SPIFFE ID to use, as it is in the registration entry
    #[arg(long, value_name = "HINT", value_parser = parse::hint)]
    hint: Option<String>,
    /// Longest time that a trust bundle stays in use after the Workload API has sent one in its place
    /// that can't be used
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse::duration)]
    bundle_grace: Duration,
}

impl WorkloadApiArgs {
    /// Returns the Workload API that the flags name. It has `timeout` to issue an identity.
    #[must_use]
    pub fn workload_api(&self, timeout: Duration) -> WorkloadApi {
        WorkloadApi::new(self.workload_api.clone(), timeout)
            .choose(self.choice())
            .bundle_grace(self.bundle_grace)
            .on_agent(protect::forbid_tracing)
    }

    /// Returns the address of the Workload API.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.workload_api
    }

    /// Returns the SPIFFE ID that the flags choose, if they name one.
    #[must_use]
    pub fn chosen_id(&self) -> Option<&SpiffeId> {
        self.spiffe_id.as_ref()
    }

    /// Returns whether the flags choose no identity.
    pub(crate) fn is_any(&self) -> bool {
        self.choice() == Choice::First
    }

    fn choice(&self) -> Choice {
        match (&self.spiffe_id, &self.hint) {
            (Some(id), _) => Choice::Id(id.clone()),
            (None, Some(hint)) => Choice::Hint(hint.clone()),
            (None, None) => Choice::First,
        }
    }
}

/// The log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs (standard error; RUST_LOG selects what is logged)")]
pub struct LogArgs {
    /// Format of log lines: text for people, or json for machines
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use common::workload::DEFAULT_BUNDLE_GRACE;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        identity: WorkloadApiArgs,
    }

    fn parsed(args: &[&str]) -> Result<WorkloadApiArgs, clap::Error> {
        let flags = Flags::try_parse_from(["x"].iter().chain(args))?;
        Ok(flags.identity)
    }

    #[test]
    fn identity_is_chosen_by_id_or_by_hint_w178() {
        let id = "spiffe://example.org/server";
        for (args, choice) in [
            (&[] as &[&str], Choice::First),
            (&["--spiffe-id", id], Choice::Id(id.parse().unwrap())),
            (&["--hint", "internal"], Choice::Hint("internal".to_owned())),
        ] {
            let args = parsed(args).unwrap();
            assert_eq!(args.choice(), choice);
            assert_eq!(args.bundle_grace, DEFAULT_BUNDLE_GRACE);
        }
        for (args, text) in [
            (
                &["--spiffe-id", id, "--hint", "x"] as &[&str],
                "cannot be used with",
            ),
            (&["--spiffe-id", "server"], "expected for example spiffe://"),
            (&["--spiffe-id", "spiffe://example.org"], "not a workload"),
            (&["--hint", ""], "a hint has 1 to 1024 bytes"),
            (&["--bundle-grace", "0s"], "must be more than zero"),
        ] {
            let error = parsed(args).unwrap_err();
            assert!(error.to_string().contains(text), "{args:?}: {error}");
        }
    }
}
