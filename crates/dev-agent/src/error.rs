//! The errors of the agent's set-up and control. Faults of callers are gRPC statuses instead.

use std::{io, net::SocketAddr, path::PathBuf};

use spiffe::TrustDomain;

/// An entry that people can copy; every message about a bad entry shows it.
const EXAMPLE: &str = "spiffe://example.org/server=unix:user:server-workload";

/// The reason why the agent refuses a setting, can't start, or can't be controlled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A registration entry that can't be parsed, or that contradicts the other entries.
    #[error("entry '{entry}': {reason}; an entry looks like '{EXAMPLE}'")]
    Entry {
        /// The given entry, with control characters escaped.
        entry: String,
        /// The fault, and the remedy.
        reason: String,
    },

    /// A federated trust bundle that workloads must not get.
    #[error("federated bundle '{bundle}': {reason}")]
    Federated {
        /// The trust domain, or the text in its place.
        bundle: String,
        /// The fault.
        reason: String,
    },

    /// A federation with another trust domain whose settings can't be used.
    #[error("federation with '{partner}': {reason}")]
    Partner {
        /// The other trust domain.
        partner: String,
        /// The fault, and the remedy.
        reason: String,
    },

    /// An address of an HTTPS endpoint that can't be listened on.
    #[error("cannot listen on {address}; choose another address, or stop what listens there")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },

    /// A command for the bundle endpoint of an agent that has none.
    #[error("the agent has no bundle endpoint; start it with --bundle-endpoint")]
    NoBundleEndpoint,

    /// A setting out of its range.
    #[error("{setting}: {reason}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// The value, the fault, and the remedy.
        reason: String,
    },

    /// The socket's path is taken or can't be used.
    #[error("cannot listen on {}: {reason}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// The obstacle, and the remedy.
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

    /// A command that does not apply to a stopped agent.
    #[error("the agent is stopped; it answers no calls until it is started again")]
    Stopped,

    /// A prepared key that was replaced before it was to be used, by another rotation or a restart with new keys.
    #[error("another rotation has replaced the {what} meanwhile")]
    Superseded {
        /// The kind of key.
        what: &'static str,
    },

    /// A running agent that can't be controlled from here.
    #[error("cannot control an agent by {}: {reason}", path.display())]
    Control {
        /// The control socket.
        path: PathBuf,
        /// The obstacle, and the remedy.
        reason: String,
    },

    /// A key or a certificate can't be made.
    #[error("cannot make the {what}")]
    Certificate {
        /// The key or certificate.
        what: &'static str,
        /// The cause.
        source: rcgen::Error,
    },

    /// The cryptographic library refused an operation that has no reason to fail.
    #[error("cannot {what}: the cryptographic library failed")]
    Crypto {
        /// The operation.
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

    pub(crate) fn partner(partner: &TrustDomain, reason: impl Into<String>) -> Self {
        Self::Partner {
            partner: partner.id_string(),
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
