//! `dev-agent ctl`: the levers of an agent that runs, as commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dev_agent::control::{Lever, MAX_WAIT, path_beside};
use spiffe::{SpiffeId, TrustDomain};

use super::values::{self, Control, FederateFile, workload_api};

const EXAMPLES: &str = "\
Examples:
  What the agent has, and who has it:
    dev-agent ctl status

  A CA rotation that no workload notices, and its end:
    dev-agent ctl rotate-ca && dev-agent ctl drop-old-ca

  An agent that is away for a minute and comes back with other keys:
    dev-agent ctl restart --down-for 60s --new-keys

Exit status: 0 it is done, 1 the agent refused or there is none, 2 the command line is wrong.";

/// Move the levers of an agent that runs: rotate, withdraw, stall, restart.
///
/// It speaks to the agent through a socket beside that of the Workload API, which only the
/// user who runs the agent, and root, may use. It returns when what was asked is done.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Ctl {
    /// The agent's socket: a path, or an address of the form unix:///PATH [default: the
    /// address in SPIFFE_ENDPOINT_SOCKET, else /tmp/agent.sock].
    #[arg(long, global = true, env = "DEV_AGENT_SOCKET", value_name = "PATH",
        value_parser = values::socket)]
    socket: Option<PathBuf>,

    /// Its control socket [default: the path of the socket and '.ctl'].
    #[arg(long, global = true, env = "DEV_AGENT_CONTROL_SOCKET", value_name = "PATH",
        value_parser = values::control)]
    control_socket: Option<Control>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the agent's identities, keys and streams.
    Status {
        /// As one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Issue all X.509-SVIDs anew, under the same CA.
    RotateX509,
    /// Publish a new CA, wait, and issue all X.509-SVIDs anew under it.
    RotateCa(Lead),
    /// Take all CAs but the one in use, and the next one, out of the trust bundle.
    DropOldCa,
    /// Publish a new key for JWT-SVIDs, wait, and sign with it.
    RotateJwt(Lead),
    /// Take all JWT keys but the one in use, and the next one, out of the trust bundle.
    DropOldJwt,
    /// Take an identity away from all that have it.
    Withdraw(Id),
    /// Give it back to them.
    Restore(Id),
    /// Let workloads wait: open streams stay silent, calls get no answer.
    Stall,
    /// Answer again, and first of all those who waited.
    Unstall,
    /// Close the Workload API socket, wait, and make it again.
    Restart {
        /// How long there is no agent to be found.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = wait)]
        down_for: Duration,
        /// Come back with fresh keys, as an agent that was killed and started again: all that
        /// it ever issued stops being valid.
        #[arg(long)]
        new_keys: bool,
    },
    /// Give workloads the trust bundle of another trust domain, or a newer one.
    Federate {
        /// From a file as `spire-server bundle show -format spiffe` prints it.
        #[arg(value_name = "spiffe://TRUST-DOMAIN=FILE", value_parser = values::federate)]
        bundle: FederateFile,
    },
    /// Take the trust bundle of another trust domain away.
    Unfederate {
        /// The trust domain whose bundle it is.
        #[arg(value_name = "spiffe://TRUST-DOMAIN", value_parser = values::trust_domain)]
        trust_domain: TrustDomain,
    },
}

#[derive(Args, Debug)]
struct Lead {
    /// How long workloads get to take it in before it is used.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = wait)]
    lead: Duration,
}

#[derive(Args, Debug)]
struct Id {
    /// The SPIFFE ID of one or more of the agent's entries.
    #[arg(value_name = "SPIFFE-ID", value_parser = id)]
    id: String,
}

/// A lever, of which agent, and how to show the answer.
#[derive(Debug)]
pub(crate) struct Order {
    /// The agent's control socket.
    pub(crate) control: PathBuf,
    /// What it is to do.
    pub(crate) lever: Lever,
    /// Show a status as JSON.
    pub(crate) json: bool,
}

impl Ctl {
    pub(super) fn into_order(self, endpoint: Option<OsString>) -> Result<Order, String> {
        let control = match self.control_socket.unwrap_or(Control::Beside) {
            Control::Beside => path_beside(&workload_api(self.socket, endpoint)?),
            Control::At(path) => path,
            Control::Off => {
                return Err("--control-socket: 'none' is an agent that cannot be controlled; start it without that".to_owned());
            }
        };
        let json = matches!(self.command, Command::Status { json: true });
        let lever = self.command.into_lever()?;
        Ok(Order {
            control,
            lever,
            json,
        })
    }
}

impl Command {
    fn into_lever(self) -> Result<Lever, String> {
        Ok(match self {
            Self::Status { json: _ } => Lever::Status,
            Self::RotateX509 => Lever::RotateX509,
            Self::RotateCa(Lead { lead }) => Lever::RotateCa { lead },
            Self::DropOldCa => Lever::DropOldCa,
            Self::RotateJwt(Lead { lead }) => Lever::RotateJwt { lead },
            Self::DropOldJwt => Lever::DropOldJwt,
            Self::Withdraw(Id { id }) => Lever::Withdraw { id },
            Self::Restore(Id { id }) => Lever::Restore { id },
            Self::Stall => Lever::Stall,
            Self::Unstall => Lever::Unstall,
            Self::Restart { down_for, new_keys } => Lever::Restart { down_for, new_keys },
            // Read here: the agent may be in another directory, and another user.
            Self::Federate { bundle } => Lever::Federate {
                trust_domain: bundle.trust_domain.id_string(),
                document: bundle.read()?.document().to_owned(),
            },
            Self::Unfederate { trust_domain } => Lever::Unfederate {
                trust_domain: trust_domain.id_string(),
            },
        })
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = values::duration(text)?;
    if wait > MAX_WAIT {
        let max = humantime::format_duration(MAX_WAIT);
        return Err(format!("it is longer than {max}"));
    }
    Ok(wait)
}

fn id(text: &str) -> Result<String, String> {
    match SpiffeId::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; a SPIFFE ID is such as spiffe://example.org/server"
        )),
    }
}
