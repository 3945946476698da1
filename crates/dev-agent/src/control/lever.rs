//! What can be asked of a running agent, and how it is done.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::agent::DevAgent;
use crate::entry;
use crate::federation::FederatedBundle;
use crate::state::status::Status;

/// The longest lead, and the longest that an agent stays down.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What can be asked of an agent. All but those that wait take effect at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the methods of DevAgent have the same names")]
pub enum Lever {
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
    Unfederate {
        trust_domain: String,
    },
    Status,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// What was done, on one line.
    Done(String),
    /// What the agent says about itself.
    Status(Box<Status>),
    /// Why nothing was done, or not all of it.
    Refused(String),
}

impl Lever {
    /// How long the agent waits before it is done.
    pub(crate) fn wait(&self) -> Duration {
        match self {
            Self::RotateCa { lead } | Self::RotateJwt { lead } => *lead,
            Self::Restart { down_for, .. } => *down_for,
            _ => Duration::ZERO,
        }
    }
}

/// The levers of one agent.
pub(crate) struct Levers<'a> {
    agent: &'a DevAgent,
    restarting: Mutex<()>,
}

impl<'a> Levers<'a> {
    pub(crate) fn new(agent: &'a DevAgent) -> Self {
        Self {
            agent,
            restarting: Mutex::default(),
        }
    }

    pub(crate) async fn pull(&self, lever: Lever) -> Reply {
        let wait = lever.wait();
        if wait > MAX_WAIT {
            return Reply::Refused(format!("{wait:?} is longer than {MAX_WAIT:?}"));
        }
        self.answer(lever).await.unwrap_or_else(Reply::Refused)
    }

    async fn answer(&self, lever: Lever) -> Result<Reply, String> {
        let (agent, state) = (self.agent, &self.agent.state);
        let in_log = || "it failed; the agent's log says why".to_owned();
        let done = match lever {
            Lever::RotateX509 => state
                .reissue()
                .map(|()| "all X.509-SVIDs issued anew".into()),
            Lever::RotateCa { lead } => agent
                .rotate_ca_with_lead(lead)
                .await
                .map(|name| format!("new CA in use: {name}")),
            Lever::DropOldCa => state.drop_old_ca().map(|n| format!("old CAs dropped: {n}")),
            Lever::RotateJwt { lead } => agent
                .rotate_jwt_key_with_lead(lead)
                .await
                .map(|id| format!("new JWT key in use: {id}")),
            Lever::DropOldJwt => state
                .drop_old_jwt_key()
                .map(|n| format!("old JWT keys dropped: {n}")),
            Lever::Withdraw { id } => state
                .set_withdrawn(&self.entry(&id)?, true)
                .map(|()| format!("withdrawn: {id}")),
            Lever::Restore { id } => state
                .set_withdrawn(&self.entry(&id)?, false)
                .map(|()| format!("restored: {id}")),
            Lever::Stall => Some(self.set_stalled(true)?),
            Lever::Unstall => Some(self.set_stalled(false)?),
            Lever::Restart { down_for, new_keys } => Some(self.restart(down_for, new_keys).await?),
            Lever::Federate {
                trust_domain,
                document,
            } => Some(self.federate(&trust_domain, &document)?),
            Lever::Unfederate { trust_domain } => Some(self.unfederate(&trust_domain)?),
            Lever::Status => return Ok(Reply::Status(Box::new(agent.status()))),
        };
        done.map(Reply::Done).ok_or_else(in_log)
    }

    /// A SPIFFE ID that there is an entry for.
    fn entry(&self, id: &str) -> Result<SpiffeId, String> {
        // Its text is in what we answer.
        let id = entry::parse_id(&id.escape_debug().to_string())?;
        let entries = &self.agent.state.config.entries;
        if entries.iter().any(|entry| *entry.id() == id) {
            return Ok(id);
        }
        let mut ids: Vec<_> = entries.iter().map(|e| e.id().to_string()).collect();
        ids.dedup();
        Err(format!(
            "no entry has the SPIFFE ID '{id}'; there are {}",
            ids.join(", ")
        ))
    }

    fn set_stalled(&self, stalled: bool) -> Result<String, String> {
        let state = &self.agent.state;
        state.set_stalled(stalled).map_err(|e| e.to_string())?;
        Ok(if stalled { "stalled" } else { "serving" }.to_owned())
    }

    async fn restart(&self, down_for: Duration, new_keys: bool) -> Result<String, String> {
        let _restarting = self
            .restarting
            .try_lock()
            .map_err(|_| "it is being restarted already; wait for that to end")?;
        self.agent.stop().await;
        sleep(down_for).await;
        let (restarted, done) = if new_keys {
            let restarted = self.agent.restart_with_new_keys().await;
            (restarted, "restarted with new keys")
        } else {
            (self.agent.restart().await, "restarted with the same keys")
        };
        restarted.map_err(|error| format!("the agent is stopped now: {error}"))?;
        Ok(done.to_owned())
    }

    fn federate(&self, trust_domain: &str, document: &str) -> Result<String, String> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let done = format!("federated: {}", trust_domain.id_string());
        FederatedBundle::parse(trust_domain, document)
            .and_then(|bundle| self.agent.federate(bundle))
            .map_err(|error| error.to_string())?;
        Ok(done)
    }

    fn unfederate(&self, trust_domain: &str) -> Result<String, String> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let id = trust_domain.id_string();
        if self.agent.unfederate(&trust_domain) {
            return Ok(format!("federated no more: {id}"));
        }
        let others = match self.agent.status().federated {
            none if none.is_empty() => "no bundle of another trust domain".to_owned(),
            others => format!("those of {}", others.join(", ")),
        };
        Err(format!("there is no bundle of '{id}'; there are {others}"))
    }
}

/// A trust domain in its one spelling as a SPIFFE ID: spiffe://example.com.
fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text)
        .ok()
        .filter(|trust_domain| trust_domain.id_string() == text)
        .ok_or_else(|| {
            let text = text.escape_debug();
            format!("'{text}' is not a trust domain such as spiffe://example.com")
        })
}
