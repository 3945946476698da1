//! The fetch of a JWT-SVID (Workload API §6.2.1).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::{JwtSvid, SpiffeId};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use workload_api::pb;

use super::{
    Choice, Error, WorkloadApi, choice::Offered, connection::Connection, error::Reason,
    follow::Agent,
};
use crate::sanitize::Sanitized;

/// The time after which a fetch is made a second time, on a new connection, while the first continues. An
/// agent that hangs may have been replaced; one that waits for its server answers in the end, and has the
/// reason.
const SECOND_ATTEMPT: Duration = Duration::from_secs(5);

/// A fetch, with everything that it needs.
struct Request {
    agent: Agent,
    audiences: Vec<String>,
    id: Option<SpiffeId>,
    choice: Choice,
}

impl WorkloadApi {
    /// Fetches a JWT-SVID of the identity `id`, or of the chosen identity, for all of `audiences`.
    ///
    /// # Errors
    /// Fails when the Workload API cannot be reached in two attempts, or issues no token. Also fails when
    /// the token has expired, or is for another subject or audience (Workload API §6.2.1).
    pub async fn fetch_jwt_svid(
        &self,
        audiences: &[impl AsRef<str> + Sync],
        id: Option<&SpiffeId>,
    ) -> Result<JwtSvid, Error> {
        let chosen = match &self.choice {
            Choice::Id(id) => Some(id),
            Choice::First | Choice::Hint(_) => None,
        };
        let audiences = audiences.iter().map(|one| one.as_ref().to_owned());
        let request = Arc::new(Request {
            agent: self.agent(),
            audiences: audiences.collect(),
            id: id.or(chosen).cloned(),
            choice: self.choice.clone(),
        });
        let fetched = request.fetch(self.startup_timeout).await;
        fetched.map_err(|reason| self.error(reason))
    }
}

impl Request {
    /// Fetches within `limit`. The error is that of the last attempt that failed.
    async fn fetch(self: Arc<Self>, limit: Duration) -> Result<JwtSvid, Reason> {
        let deadline = Instant::now() + limit;
        let mut attempts = JoinSet::new();
        attempts.spawn(Arc::clone(&self).attempt());
        if let Ok(Some(first)) = timeout(SECOND_ATTEMPT.min(limit), attempts.join_next()).await {
            return first.unwrap_or(Err(Reason::NoAnswer));
        }
        attempts.spawn(self.attempt());
        let mut failure = Reason::NoAnswer;
        while let Ok(Some(fetched)) = timeout_at(deadline, attempts.join_next()).await {
            match fetched.unwrap_or(Err(Reason::NoAnswer)) {
                Ok(svid) => return Ok(svid),
                Err(reason) => failure = reason,
            }
        }
        Err(failure)
    }

    /// Fetches once, and again on a new connection if the agent is unavailable, because the first may have
    /// reached an agent that stops.
    async fn attempt(self: Arc<Self>) -> Result<JwtSvid, Reason> {
        match self.once().await {
            Err(reason) if reason.is_unavailable() => self.once().await,
            fetched => fetched,
        }
    }

    async fn once(&self) -> Result<JwtSvid, Reason> {
        let mut agent = Connection::open(&self.agent.address, self.agent.hook).await?;
        let issued = agent.jwt_svids(self.audiences.clone(), self.id.as_ref());
        let issued = issued.await.map_err(Reason::of_token)?;
        let svid = self.chosen(&issued)?;
        self.check(&svid)?;
        Ok(svid)
    }

    /// Returns the chosen one of the tokens that were issued. The others are not parsed.
    fn chosen(&self, issued: &[pb::Jwtsvid]) -> Result<JwtSvid, Reason> {
        let offered = issued.iter().map(|one| Offered {
            id: &one.spiffe_id,
            hint: &one.hint,
        });
        // A hint matters only if the request did not name an identity.
        let choice = match &self.choice {
            Choice::Hint(_) if self.id.is_none() => &self.choice,
            _ => &Choice::First,
        };
        let index = choice.among(offered, None).map_err(Reason::NotIssued)?;
        let token = &issued[index].svid;
        let parsed = JwtSvid::from_workload_api_token(token);
        parsed.map_err(|error| Reason::UnusableToken(Sanitized(error.to_string())))
    }

    /// Checks that the token is the requested one, and that it can be used.
    fn check(&self, svid: &JwtSvid) -> Result<(), Reason> {
        let found = svid.audience();
        let same_audiences = found.len() == self.audiences.len()
            && self.audiences.iter().all(|asked| found.contains(asked));
        let is_asked = same_audiences && self.id.as_ref().is_none_or(|id| id == svid.spiffe_id());
        let is_valid = SystemTime::from(svid.expiry()) > SystemTime::now();
        (is_asked && is_valid)
            .then_some(())
            .ok_or(Reason::WrongToken)
    }
}
