//! A single query of the Workload API, for a diagnosis.

use std::path::Path;

use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

use super::{
    Error, WorkloadApi,
    address::Address,
    choice::Offered,
    connection::{Connection, Message, Stream},
    error::Reason,
};
use crate::sanitize::Sanitized;

/// The process at the other end of the socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentProcess {
    /// Its Unix user ID.
    pub uid: u32,
}

/// An identity that the Workload API issues to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedId {
    /// The SPIFFE ID, sanitized.
    pub id: String,
    /// The hint of its registration entry, sanitized. It is empty if there is none.
    pub hint: String,
}

/// The identities that the Workload API issues to this process, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// All of them.
    pub all: Vec<IssuedId>,
    /// The one that this process uses.
    pub chosen: IssuedId,
}

impl WorkloadApi {
    /// Connects once. Returns the agent's process, or `None` over TCP.
    ///
    /// # Errors
    /// Fails when the agent does not accept the connection. The error has the kernel's reason.
    pub async fn reach(&self) -> Result<Option<AgentProcess>, Error> {
        let reached = async {
            match &self.address {
                Address::Unix(path) => reach(path).await.map(Some),
                Address::Tcp(_) => {
                    Connection::open(&self.address, self.on_agent).await?;
                    Ok(None)
                }
            }
        };
        self.in_time(reached).await
    }

    /// Asks once for the identities that are issued to this process.
    ///
    /// # Errors
    /// Fails when none is issued, or when the chosen one is not. The error has the reason.
    pub async fn issued(&self) -> Result<Issued, Error> {
        self.in_time(async {
            let mut agent = Connection::open(&self.address, self.on_agent).await?;
            let messages = agent.subscribe(Stream::X509Svids).await;
            let mut messages = messages.map_err(Reason::of_stream)?;
            let first = messages.next().await.map_err(Reason::of_stream)?;
            let Some(Message::X509Svids(issued)) = first else {
                return Err(Reason::Ended);
            };
            let offered = issued.svids.iter().map(|one| Offered {
                id: &one.spiffe_id,
                hint: &one.hint,
            });
            let all: Vec<_> = offered.clone().map(IssuedId::of).collect();
            let index = self.choice.among(offered, None);
            let chosen = all[index.map_err(Reason::NotIssued)?].clone();
            Ok(Issued { all, chosen })
        })
        .await
    }

    async fn in_time<T>(&self, look: impl Future<Output = Result<T, Reason>>) -> Result<T, Error> {
        let deadline = Instant::now() + self.startup_timeout;
        let looked = timeout_at(deadline, look).await;
        let looked = looked.unwrap_or(Err(Reason::NoAnswer));
        looked.map_err(|reason| self.error(reason))
    }
}

impl IssuedId {
    fn of(offered: Offered<'_>) -> Self {
        let sanitized = |text: &str| Sanitized(text).to_string();
        Self {
            id: sanitized(offered.id),
            hint: sanitized(offered.hint),
        }
    }
}

async fn reach(path: &Path) -> Result<AgentProcess, Reason> {
    let socket = UnixStream::connect(path)
        .await
        .map_err(|error| Reason::from_open(path, error))?;
    let agent = socket.peer_cred().map_err(Reason::Connect)?;
    Ok(AgentProcess { uid: agent.uid() })
}
