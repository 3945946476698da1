//! The command line of `dev-agent ctl`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use dev_agent::{
    EndpointMode,
    control::{Command, MAX_WAIT, default_path},
};
use spiffe::{SpiffeId, TrustDomain};

use super::values::{self, Control, FederateFile, FederateWith, workload_api};

const EXAMPLES: &str = "\
Examples:
  Show the agent's entries, keys and streams:
    dev-agent ctl status

  Rotate the CA without an interruption of any workload, and drop the old one:
    dev-agent ctl rotate-ca && dev-agent ctl drop-old-ca

  Stop the agent for a minute, and start it again with other keys:
    dev-agent ctl restart --down-for 60s --new-keys

Exit status: 0 the command is done; 1 the agent refused it, or there is no
agent; 2 the command line is wrong.";

/// Control a running agent: rotate, withdraw, stall, restart.
///
/// Commands go through the agent's control socket, which only the user who runs the agent and root
/// may use. Each command returns when it is done.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Ctl {
    /// The agent's socket: a path, or an address of the form unix:///PATH [default:
    /// SPIFFE_ENDPOINT_SOCKET, otherwise /tmp/agent.sock].
    #[arg(long, global = true, env = "DEV_AGENT_SOCKET", value_name = "PATH",
        value_parser = values::socket)]
    socket: Option<PathBuf>,

    /// The agent's control socket [default: the path of the socket and '.ctl'].
    #[arg(long, global = true, env = "DEV_AGENT_CONTROL_SOCKET", value_name = "PATH",
        value_parser = values::control)]
    control_socket: Option<Control>,

    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Subcommand, Debug)]
enum CtlCommand {
    /// Show the agent's entries, keys and streams.
    Status {
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the trust bundle of the agent, for an agent of another trust domain.
    Bundle,
    /// Issue all X.509-SVIDs again, under the same CA.
    RotateX509,
    /// Publish a new CA, wait, and issue all X.509-SVIDs again under it.
    RotateCa(Lead),
    /// Remove all CAs from the trust bundle except the current and the next one.
    DropOldCa,
    /// Publish a new key for JWT-SVIDs, wait, and sign with it.
    RotateJwt(Lead),
    /// Remove all JWT keys from the trust bundle except the current and the next one.
    DropOldJwt,
    /// Withdraw an identity from all workloads that have it.
    Withdraw(Id),
    /// Restore a withdrawn identity.
    Restore(Id),
    /// Let workloads wait: open streams stay silent, and calls get no answer.
    Stall,
    /// Answer again, waiting workloads included.
    Unstall,
    /// Remove the Workload API socket, wait, and make it again.
    Restart {
        /// Time without a socket, at most 1h.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = wait)]
        down_for: Duration,
        /// Start again with fresh keys. All SVIDs that the agent ever issued stop being valid.
        #[arg(long)]
        new_keys: bool,
    },
    /// Add or replace the trust bundle of another trust domain.
    Federate {
        /// The trust domain, and a file with the output of `spire-server bundle show -format
        /// spiffe`.
        #[arg(value_name = "spiffe://TRUST-DOMAIN=FILE", value_parser = values::federate)]
        bundle: FederateFile,
    },
    /// Fetch the trust bundle of another trust domain from its endpoint, from now on.
    FederateWith {
        /// The trust domain, the URL of its bundle endpoint, and options as those of the agent's
        /// --federate-with.
        #[arg(value_name = "spiffe://TRUST-DOMAIN=URL[;OPTION…]",
            value_parser = values::federate_with)]
        with: FederateWith,
    },
    /// Fetch the trust bundle of another trust domain now.
    Refresh {
        /// The trust domain of the bundle.
        #[arg(value_name = "spiffe://TRUST-DOMAIN", value_parser = values::trust_domain)]
        trust_domain: TrustDomain,
    },
    /// Change the behaviour of the agent's own bundle endpoint, for tests of its clients.
    Endpoint {
        /// normal; stale (the bundle of now, whatever changes), old-sequence, empty, garbage,
        /// wrong-certificate, wrong-identity, not-found, gone (refuses connections).
        #[arg(value_name = "MODE")]
        mode: EndpointMode,
    },
    /// Remove the trust bundle of another trust domain, and stop fetching it.
    Unfederate {
        /// The trust domain of the bundle.
        #[arg(value_name = "spiffe://TRUST-DOMAIN", value_parser = values::trust_domain)]
        trust_domain: TrustDomain,
    },
}

#[derive(Args, Debug)]
struct Lead {
    /// Time between the publication of the new key and its use, at most 1h.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = wait)]
    lead: Duration,
}

#[derive(Args, Debug)]
struct Id {
    /// SPIFFE ID of one or more of the agent's entries.
    #[arg(value_name = "SPIFFE-ID", value_parser = id)]
    id: String,
}

/// A command, its agent, and the form of the reply.
#[derive(Debug)]
pub(crate) struct CtlRequest {
    /// The agent's control socket.
    pub(crate) control: PathBuf,
    pub(crate) command: Command,
    /// True if a status is printed as JSON.
    pub(crate) json: bool,
}

impl Ctl {
    pub(super) fn into_request(self, endpoint: Option<OsString>) -> Result<CtlRequest, String> {
        let control = match self.control_socket.unwrap_or(Control::Default) {
            Control::Default => default_path(&workload_api(self.socket, endpoint)?),
            Control::At(path) => path,
            Control::Off => {
                return Err("--control-socket: an agent with 'none' cannot be controlled; start it without that".to_owned());
            }
        };
        let json = matches!(self.command, CtlCommand::Status { json: true });
        let command = self.command.into_command()?;
        Ok(CtlRequest {
            control,
            command,
            json,
        })
    }
}

impl CtlCommand {
    fn into_command(self) -> Result<Command, String> {
        Ok(match self {
            Self::Status { json: _ } => Command::Status,
            Self::Bundle => Command::Bundle,
            Self::RotateX509 => Command::RotateX509,
            Self::RotateCa(Lead { lead }) => Command::RotateCa { lead },
            Self::DropOldCa => Command::DropOldCa,
            Self::RotateJwt(Lead { lead }) => Command::RotateJwt { lead },
            Self::DropOldJwt => Command::DropOldJwt,
            Self::Withdraw(Id { id }) => Command::Withdraw { id },
            Self::Restore(Id { id }) => Command::Restore { id },
            Self::Stall => Command::Stall,
            Self::Unstall => Command::Unstall,
            Self::Restart { down_for, new_keys } => Command::Restart { down_for, new_keys },
            // The file is read here, because the agent may be in another directory and of another user.
            Self::Federate { bundle } => Command::Federate {
                trust_domain: bundle.trust_domain.id_string(),
                document: bundle.read()?.document().to_owned(),
            },
            Self::FederateWith { with } => {
                let (trust_domain, url, profile) = with.read()?;
                Command::FederateWith {
                    trust_domain: trust_domain.id_string(),
                    url: url.to_owned(),
                    profile,
                }
            }
            Self::Refresh { trust_domain } => Command::Refresh {
                trust_domain: trust_domain.id_string(),
            },
            Self::Endpoint { mode } => Command::Endpoint { mode },
            Self::Unfederate { trust_domain } => Command::Unfederate {
                trust_domain: trust_domain.id_string(),
            },
        })
    }
}

/// Parses a wait of at most [`MAX_WAIT`].
fn wait(text: &str) -> Result<Duration, String> {
    let wait = values::duration(text)?;
    if wait > MAX_WAIT {
        let max = humantime::format_duration(MAX_WAIT);
        return Err(format!("it is longer than {max}"));
    }
    Ok(wait)
}

/// Checks that the text is a SPIFFE ID. The agent checks the rest.
fn id(text: &str) -> Result<String, String> {
    match SpiffeId::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; a SPIFFE ID is such as spiffe://example.org/server"
        )),
    }
}
