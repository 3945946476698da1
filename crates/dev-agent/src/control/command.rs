//! The commands of `dev-agent ctl`, and the replies to them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{endpoint::EndpointMode, federation::PartnerProfile, status::Status};

/// The longest lead, and the longest time that an agent stays down.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// A command to an agent. All take effect at once, except those that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the methods of DevAgent have the same names")]
pub enum Command {
    RotateX509,
    RotateCa {
        lead: Duration,
    },
    DropOldCa,
    RotateJwt {
        lead: Duration,
    },
    DropOldJwt,
    Withdraw {
        id: String,
    },
    Restore {
        id: String,
    },
    Stall,
    Unstall,
    /// Stops the agent, waits, and starts it again on the same socket.
    Restart {
        down_for: Duration,
        new_keys: bool,
    },
    Federate {
        trust_domain: String,
        document: String,
    },
    /// Fetches the bundle of another trust domain from its endpoint from now on.
    FederateWith {
        trust_domain: String,
        url: String,
        profile: PartnerProfile,
    },
    Refresh {
        trust_domain: String,
    },
    /// Changes the behaviour of the bundle endpoint.
    Endpoint {
        mode: EndpointMode,
    },
    Unfederate {
        trust_domain: String,
    },
    Status,
    Bundle,
}

/// The reply of the agent to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The effect of the command, on one line.
    Done(String),
    /// The status of the agent.
    Status(Box<Status>),
    /// The bundle document of the agent's trust domain.
    Bundle(String),
    /// The reason why the command had no effect, or not its full effect.
    Refused(String),
}

impl Command {
    /// Returns the time that the command takes by itself.
    pub(crate) fn wait(&self) -> Duration {
        match self {
            Self::RotateCa { lead } | Self::RotateJwt { lead } => *lead,
            Self::Restart { down_for, .. } => *down_for,
            _ => Duration::ZERO,
        }
    }
}
