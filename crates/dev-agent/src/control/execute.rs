//! The execution of commands.

use std::time::Duration;

use spiffe::{SpiffeId, TrustDomain};
use tokio::{sync::Mutex, time::sleep};

use super::command::{Command, MAX_WAIT, Reply};
use crate::{
    agent::DevAgent,
    entry,
    federation::{FederatedBundle, Partner, PartnerProfile},
};

/// Executes commands on one agent.
pub(super) struct Executor<'a> {
    agent: &'a DevAgent,
    restarting: Mutex<()>,
}

impl<'a> Executor<'a> {
    pub(super) fn new(agent: &'a DevAgent) -> Self {
        Self {
            agent,
            restarting: Mutex::default(),
        }
    }

    /// Executes a command, and returns when it is done.
    pub(super) async fn execute(&self, command: Command) -> Reply {
        let wait = command.wait();
        if wait > MAX_WAIT {
            return Reply::Refused(format!("{wait:?} is longer than {MAX_WAIT:?}"));
        }
        self.try_execute(command)
            .await
            .unwrap_or_else(Reply::Refused)
    }

    async fn try_execute(&self, command: Command) -> Result<Reply, String> {
        let (agent, state) = (self.agent, &self.agent.state);
        let in_log = || "it failed; the agent's log says why".to_owned();
        let done = match command {
            Command::RotateX509 => state
                .reissue()
                .map(|()| "all X.509-SVIDs issued again".into()),
            Command::RotateCa { lead } => agent
                .rotate_ca_with_lead(lead)
                .await
                .map(|name| format!("new CA in use: {name}")),
            Command::DropOldCa => state.drop_old_ca().map(|n| format!("old CAs dropped: {n}")),
            Command::RotateJwt { lead } => agent
                .rotate_jwt_key_with_lead(lead)
                .await
                .map(|id| format!("new JWT key in use: {id}")),
            Command::DropOldJwt => state
                .drop_old_jwt_key()
                .map(|n| format!("old JWT keys dropped: {n}")),
            Command::Withdraw { id } => state
                .set_withdrawn(&self.entry(&id)?, true)
                .map(|()| format!("withdrawn: {id}")),
            Command::Restore { id } => state
                .set_withdrawn(&self.entry(&id)?, false)
                .map(|()| format!("restored: {id}")),
            Command::Stall => Some(self.set_stalled(true)?),
            Command::Unstall => Some(self.set_stalled(false)?),
            Command::Restart { down_for, new_keys } => {
                Some(self.restart(down_for, new_keys).await?)
            }
            Command::Federate {
                trust_domain,
                document,
            } => Some(self.federate(&trust_domain, &document)?),
            Command::FederateWith {
                trust_domain,
                url,
                profile,
            } => Some(self.federate_with(&trust_domain, &url, profile)?),
            Command::Refresh { trust_domain } => Some(self.refresh(&trust_domain).await?),
            Command::Endpoint { mode } => {
                let set = agent.set_endpoint_mode(mode).await;
                set.map_err(|error| error.to_string())?;
                Some(format!("bundle endpoint: {}", mode.name()))
            }
            Command::Unfederate { trust_domain } => Some(self.unfederate(&trust_domain)?),
            Command::Bundle => return Ok(Reply::Bundle(agent.federation().document().to_owned())),
            Command::Status => return Ok(Reply::Status(Box::new(agent.status()))),
        };
        done.map(Reply::Done).ok_or_else(in_log)
    }

    /// Parses a SPIFFE ID that an entry has.
    fn entry(&self, id: &str) -> Result<SpiffeId, String> {
        // The text is escaped because the reply contains it.
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
            .map_err(|_| "the agent is being restarted already; wait for that to end")?;
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

    fn federate_with(
        &self,
        trust_domain: &str,
        url: &str,
        profile: PartnerProfile,
    ) -> Result<String, String> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let done = format!("fetching from now on: {}", trust_domain.id_string());
        Partner::new(trust_domain, url, profile)
            .and_then(|partner| self.agent.federate_with(partner))
            .map_err(|error| error.to_string())?;
        Ok(done)
    }

    async fn refresh(&self, trust_domain: &str) -> Result<String, String> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let sequence = self.agent.refresh(&trust_domain).await;
        let sequence = match sequence.map_err(|error| error.to_string())? {
            Some(sequence) => sequence.to_string(),
            None => "none".to_owned(),
        };
        let id = trust_domain.id_string();
        Ok(format!("fetched: {id}, sequence {sequence}"))
    }

    fn unfederate(&self, trust_domain: &str) -> Result<String, String> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let id = trust_domain.id_string();
        if self.agent.unfederate(&trust_domain) {
            return Ok(format!("unfederated: {id}"));
        }
        let others = match self.agent.status().federated {
            none if none.is_empty() => "no bundles of other trust domains".to_owned(),
            others => format!("bundles of {}", others.join(", ")),
        };
        Err(format!("there is no bundle of '{id}'; there are {others}"))
    }
}

/// Parses a trust domain in its canonical spelling as a SPIFFE ID: spiffe://example.com.
fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text)
        .ok()
        .filter(|trust_domain| trust_domain.id_string() == text)
        .ok_or_else(|| {
            let text = text.escape_debug();
            format!("'{text}' is not a trust domain such as spiffe://example.com")
        })
}
