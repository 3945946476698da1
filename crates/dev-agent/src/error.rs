//! What can go wrong in setting the agent up. Faults of callers are gRPC
//! statuses, not errors of this kind.

use std::io;
use std::path::PathBuf;

/// An entry that people can copy; every message about a bad entry shows it.
const EXAMPLE: &str = "spiffe://example.org/server=unix:user:server-workload";

/// Why the agent refuses a setting, or cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A registration entry that does not parse, or does not go with the others.
    #[error("entry '{entry}': {reason}; an entry looks like '{EXAMPLE}'")]
    Entry {
        /// The entry as it was given, control characters escaped.
        entry: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },

    /// A federated trust bundle that must not be handed to workloads.
    #[error("federated bundle '{bundle}': {reason}")]
    Federated {
        /// The trust domain, or the text that should have named it.
        bundle: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A setting out of its range.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its value, what is wrong with it, and what would be right.
        reason: String,
    },

    /// The socket's path is taken or cannot be used.
    #[error("cannot listen on {}: {reason}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What is there, and what to do about it.
        reason: String,
    },

    /// The system refused to make the socket.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// The agent is already running.
    #[error("the agent is already running; stop it first")]
    Running,

    /// A lever that has no effect on an agent that is stopped.
    #[error("the agent is stopped; it answers nobody until it is started again")]
    Stopped,

    /// A running agent that cannot be controlled from here.
    #[error("cannot control an agent by {}: {reason}", path.display())]
    Control {
        /// The control socket.
        path: PathBuf,
        /// What is there, and what to do about it.
        reason: String,
    },

    /// A key or a certificate could not be made.
    #[error("cannot make the {what}")]
    Certificate {
        /// What was being made.
        what: &'static str,
        /// The cause.
        source: rcgen::Error,
    },

    /// The cryptographic library refused an operation that has no reason to fail.
    #[error("cannot {what}: the cryptographic library failed")]
    Crypto {
        /// What was being done.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn entry(entry: impl AsRef<str>, reason: impl Into<String>) -> Self {
        Self::Entry {
            entry: entry.as_ref().escape_debug().to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn federated(bundle: impl AsRef<str>, reason: impl Into<String>) -> Self {
        Self::Federated {
            bundle: bundle.as_ref().escape_debug().to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Setting {
            setting,
            reason: reason.into(),
        }
    }
}
