//! The flags of a client that keeps a token in a file.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Args;
use nix::sys::signal::Signal;
use process::cli;

use super::after::{After, CommandLine};

/// The file, and the notice of a new token.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Keeping a token in a file")]
pub(crate) struct TokenFileArgs {
    /// Keep a current JWT-SVID for AUDIENCE in a file, for an application that reads it there. The file is
    /// for this user alone, and is replaced as a whole at half of the token's life. It is removed when the
    /// token expires or is withdrawn without another one. A stop leaves it there. Runs without --listen
    #[arg(long, value_name = "PATH", conflicts_with_all = [
        "listen", "url", "server_name", "method", "headers", "data", "include", "max_time", "repeat", "every", "print",
    ])]
    pub(crate) token_file: Option<PathBuf>,
    /// Run a program after each new token: its path and arguments, with spaces between them and without a
    /// shell
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "token_file",
        conflicts_with = "token_signal"
    )]
    token_command: Option<CommandLine>,
    /// Longest time for --token-command. Then the program is killed
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = cli::duration,
        requires = "token_command"
    )]
    token_command_timeout: Duration,
    /// Send a signal after each new token, for example HUP, to the process in --token-pid-file
    #[arg(
        long,
        value_name = "SIGNAL",
        value_parser = signal,
        requires_all = ["token_file", "token_pid_file"]
    )]
    token_signal: Option<Signal>,
    /// File with the process ID for --token-signal. It is read for each signal
    #[arg(long, value_name = "FILE", requires = "token_signal")]
    token_pid_file: Option<PathBuf>,
}

impl TokenFileArgs {
    /// Returns whether a program runs after each new token.
    pub(crate) fn runs_a_program(&self) -> bool {
        self.token_command.is_some()
    }

    /// Returns the file with the process ID for a signal, if there is one.
    pub(crate) fn pid_file(&self) -> Option<&Path> {
        self.token_pid_file.as_deref()
    }

    /// Returns the notice of a new token, if there is one.
    pub(super) fn after(&self) -> Option<After> {
        let Self {
            token_command,
            token_command_timeout,
            token_signal,
            token_pid_file,
            ..
        } = self.clone();
        match (token_command, token_signal.zip(token_pid_file)) {
            (Some(command), _) => Some(After::Command(command, token_command_timeout)),
            (None, Some((signal, pid_file))) => Some(After::Signal(signal, pid_file)),
            (None, None) => None,
        }
    }
}

/// Parses the name of a signal, with or without SIG.
fn signal(text: &str) -> Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    Signal::from_str(&format!("SIG{name}"))
        .map_err(|_| "not the name of a signal; expected for example HUP or USR1".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_signal_is_named_with_or_without_sig() {
        for text in ["HUP", "hup", "SIGHUP"] {
            assert_eq!(signal(text), Ok(Signal::SIGHUP));
        }
        for text in ["", "1", "SIG", "HUP "] {
            assert!(signal(text).unwrap_err().contains("HUP or USR1"), "{text}");
        }
    }

    #[test]
    fn flags_of_other_modes_and_halves_of_flags_are_refused() {
        let file = ["--token-file", "/run/app/token"];
        for args in [
            &["--listen", "127.0.0.1:1"] as &[&str],
            &["--url", "https://a"],
            &["-d", "x"],
            &["--repeat", "2"],
            &["--print-token"],
            &["--token-signal", "HUP"],
            &["--token-pid-file", "a.pid"],
            &["--token-command-timeout", "1s"],
            &["--token-command", " "],
            &[
                "--token-command",
                "a",
                "--token-signal",
                "HUP",
                "--token-pid-file",
                "a.pid",
            ],
        ] {
            let args = [&["client"], &file as &[&str], args].concat();
            assert_eq!(Config::try_parse_from(&args).unwrap_err().exit_code(), 2);
        }
        let alone = ["client", "--token-command", "a"];
        assert!(Config::try_parse_from(alone).is_err());
        let whole = [&["client"], &file as &[&str], &["--token-command", "a b"]].concat();
        assert!(Config::try_parse_from(whole).is_ok());
    }
}
