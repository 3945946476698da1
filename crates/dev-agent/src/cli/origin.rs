//! The origin of a refused value: its option and its environment variable.

use clap::{
    Command,
    error::{ContextKind, ContextValue},
};
use dev_agent::Error;

/// Adds the environment variable to an error, if the bad value came from there.
///
/// The function in `process` does the same, and also names flags that exclude each other, of which
/// dev-agent has none. It is written twice because dev-agent uses none of the other crates.
pub(super) fn with_origin(mut error: clap::Error, command: &mut Command) -> clap::Error {
    // Arguments have no text before the build.
    command.build();
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

/// Returns the text of an error of the library, with the names that the setting has on the command
/// line.
pub(super) fn of_setting(error: Error) -> String {
    match error {
        Error::Setting { setting, reason } => format!(
            "invalid value for --{setting} (or DEV_AGENT_{}): {reason}",
            setting.to_uppercase().replace('-', "_")
        ),
        error => error.to_string(),
    }
}
