//! The execution of commands.

use std::{fmt::Display, time::Duration};

use spiffe::{SpiffeId, TrustDomain};
use tokio::{sync::Mutex, time::sleep};

use super::command::{Command, MAX_WAIT, Reply};
use crate::{
    agent::DevAgent,
    endpoint::EndpointMode,
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
        let done = match command {
            Command::RotateX509 => {
                let issued = |()| "all X.509-SVIDs issued again".to_owned();
                state.reissue().map(issued).ok_or_else(failed)
            }
            Command::RotateCa { lead } => {
                done("new CA in use", agent.rotate_ca_with_lead(lead).await)
            }
            Command::DropOldCa => done("old CAs dropped", state.drop_old_ca()),
            Command::RotateJwt { lead } => done(
                "new JWT key in use",
                agent.rotate_jwt_key_with_lead(lead).await,
            ),
            Command::DropOldJwt => done("old JWT keys dropped", state.drop_old_jwt_key()),
            Command::Withdraw { id } => self.set_withdrawn("withdrawn", &id, true),
            Command::Restore { id } => self.set_withdrawn("restored", &id, false),
            Command::Stall => self.set_stalled(true),
            Command::Unstall => self.set_stalled(false),
            Command::Restart { down_for, new_keys } => self.restart(down_for, new_keys).await,
            Command::Federate {
                trust_domain,
                document,
            } => self.federate(&trust_domain, &document),
            Command::FederateWith {
                trust_domain,
                url,
                profile,
            } => self.federate_with(&trust_domain, &url, profile),
            Command::Refresh { trust_domain } => self.refresh(&trust_domain).await,
            Command::Endpoint { mode } => self.set_endpoint_mode(mode).await,
            Command::Unfederate { trust_domain } => self.unfederate(&trust_domain),
            Command::Bundle => return Ok(Reply::Bundle(agent.federation().document().to_owned())),
            Command::Status => return Ok(Reply::Status(Box::new(agent.status()))),
        };
        done.map(Reply::Done)
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

    fn set_withdrawn(&self, effect: &str, id: &str, withdrawn: bool) -> Result<String, String> {
        let id = self.entry(id)?;
        let set = self.agent.state.set_withdrawn(&id, withdrawn);
        done(effect, set.map(|()| id))
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

    async fn set_endpoint_mode(&self, mode: EndpointMode) -> Result<String, String> {
        let set = self.agent.set_endpoint_mode(mode).await;
        set.map_err(|error| error.to_string())?;
        Ok(format!("bundle endpoint: {}", mode.name()))
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

/// Returns the text of a command's effect on `object`, which is `None` if the command failed.
fn done(effect: &str, object: Option<impl Display>) -> Result<String, String> {
    object
        .map(|object| format!("{effect}: {object}"))
        .ok_or_else(failed)
}

fn failed() -> String {
    "it failed; the agent's log says why".to_owned()
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
