//! Which option or variable a refused value came from.

use clap::Command;
use clap::error::{ContextKind, ContextValue};
use dev_agent::Error;

/// A bad value that came from the environment is hard to find by the name of an option: says so.
pub(super) fn tell(mut error: clap::Error, command: &mut Command) -> clap::Error {
    command.build(); // else arguments have no text
    let context = [ContextKind::InvalidArg, ContextKind::InvalidValue].map(|kind| error.get(kind));
    let variable = match context {
        [
            Some(ContextValue::String(arg)),
            Some(ContextValue::String(value)),
        ] => command
            .get_arguments()
            .chain(command.get_subcommands().flat_map(Command::get_arguments))
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
    error.format(command)
}

/// What the agent's library refuses, by the names that the setting has here.
pub(super) fn of_setting(error: Error) -> String {
    match error {
        Error::Setting { setting, reason } => format!(
            "invalid value for --{setting} (or DEV_AGENT_{}): {reason}",
            setting.to_uppercase().replace('-', "_")
        ),
        error => error.to_string(),
    }
}
