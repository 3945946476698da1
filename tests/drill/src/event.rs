//! Defines the events of a drill, in the order in which they happen on each of the two stacks.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    agent, identity,
    options::Scale,
    partner, processes,
    report::Row,
    stack::Stack,
    tally::{Judgement, Tally, Wanted},
};

/// The factor of all bounds of times. The binaries are built as the drill is. Without optimisation, as in
/// a short drill, full speed is 2,600 requests/s instead of 10,800 (`scripts/drill.sh`, with and without
/// `--short`).
const SLOWER: u32 = if cfg!(debug_assertions) { 5 } else { 1 };

/// An event that happens to a stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Event {
    NewSvids,
    CaRotation,
    JwtRotation,
    JwtKeyRemoved,
    CallerWithdrawn,
    FederationRemoved,
    FederatedKeys,
    FederationEnded,
    ServerWithdrawn,
    ServerRestarted,
    OnlyServerRestarted,
    ProxyHandedOver,
    ServerKilled,
    Killed,
    BundleEndpointsGone,
    AgentStopped,
    AgentStalled,
    AgentWithNewKeys,
    SvidExpires,
    ProxySharesPort,
    Overload,
    NoFilesLeft,
}

/// Collects what an event adds to its row.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    requests: u64,
    posts: u64,
    judged: Judgement,
    worst: Duration,
    /// Measurements.
    notes: Vec<String>,
    /// Deviations from what is required.
    faults: Vec<String>,
}

impl Event {
    /// All events, in the order of the table.
    pub(crate) const ALL: [Self; 22] = [
        Self::NewSvids,
        Self::CaRotation,
        Self::JwtRotation,
        Self::JwtKeyRemoved,
        Self::CallerWithdrawn,
        Self::FederationRemoved,
        Self::FederatedKeys,
        Self::FederationEnded,
        Self::ServerWithdrawn,
        Self::ServerRestarted,
        Self::OnlyServerRestarted,
        Self::ProxyHandedOver,
        Self::ServerKilled,
        Self::Killed,
        Self::BundleEndpointsGone,
        Self::AgentStopped,
        Self::AgentStalled,
        Self::AgentWithNewKeys,
        Self::SvidExpires,
        Self::ProxySharesPort,
        Self::Overload,
        Self::NoFilesLeft,
    ];

    /// Returns the name for people.
    fn title(self) -> &'static str {
        match self {
            Self::NewSvids => "new X.509-SVIDs every 2 s",
            Self::CaRotation => "CA rotated, the old one removed",
            Self::JwtRotation => "JWT key rotated",
            Self::JwtKeyRemoved => "JWT key removed",
            Self::CallerWithdrawn => "a caller's entry withdrawn",
            Self::FederationRemoved => "federated bundle removed",
            Self::FederatedKeys => "two trust domains: all keys of both rotated",
            Self::FederationEnded => "two trust domains: federation ended, restored",
            Self::ServerWithdrawn => "the servers' identity withdrawn, restored",
            Self::ServerRestarted => "each of two servers restarted",
            Self::OnlyServerRestarted => "the only server restarted",
            Self::ProxyHandedOver => "proxy restarted, socket handed over",
            Self::ServerKilled => "kill -9 of one of two servers",
            Self::Killed => "kill -9 of any process",
            Self::BundleEndpointsGone => "two trust domains: bundle endpoints gone",
            Self::AgentStopped => "agent stopped, back on a new socket",
            Self::AgentStalled => "agent stalled",
            Self::AgentWithNewKeys => "agent restarted with new keys",
            Self::SvidExpires => "agent gone until the SVIDs expire",
            Self::ProxySharesPort => "proxy restarted, port shared",
            Self::Overload => "ten times the requests it takes",
            Self::NoFilesLeft => "proxy out of file descriptors",
        }
    }

    /// Returns whether it happens on the stack whose proxy gets its socket handed over. Otherwise
    /// it happens on the other stack.
    pub(crate) fn is_of_first_stack(self) -> bool {
        !matches!(
            self,
            Self::BundleEndpointsGone
                | Self::AgentStopped
                | Self::AgentStalled
                | Self::AgentWithNewKeys
                | Self::SvidExpires
                | Self::ProxySharesPort
                | Self::Overload
                | Self::NoFilesLeft
        )
    }

    /// Runs the event under the stack's load.
    pub(crate) async fn run(self, stack: &mut Stack, scale: Scale) -> Result<Row> {
        let mut found = Findings::default();
        found.strict(stack.load.take());
        let happened = self.happen(stack, scale, &mut found).await;
        if let Err(error) = happened {
            found.faults.push(format!("{error:#}"));
        }
        found.strict(stack.load.take());
        Ok(Row {
            event: self.title(),
            requests: found.requests,
            posts: found.posts,
            judged: found.judged,
            worst: found.worst,
            notes: found.notes,
            faults: found.faults,
        })
    }

    async fn happen(self, stack: &mut Stack, scale: Scale, found: &mut Findings) -> Result<()> {
        match self {
            Self::NewSvids => identity::new_svids(stack, scale, found).await,
            Self::CaRotation => identity::ca_rotation(stack, scale).await,
            Self::JwtRotation => identity::jwt_rotation(stack, scale, found).await,
            Self::JwtKeyRemoved => identity::jwt_key_removed(stack, found).await,
            Self::CallerWithdrawn => identity::caller_withdrawn(stack, found).await,
            Self::FederationRemoved => identity::federation_removed(stack, found).await,
            Self::FederatedKeys => partner::keys_rotated(stack, scale, found).await,
            Self::FederationEnded => partner::federation_ended(stack, found).await,
            Self::ServerWithdrawn => identity::server_withdrawn(stack, found).await,
            Self::ServerRestarted => processes::server_restarted(stack).await,
            Self::OnlyServerRestarted => processes::only_server_restarted(stack, found).await,
            Self::ProxyHandedOver | Self::ProxySharesPort => {
                processes::proxy_restarted(stack, self == Self::ProxyHandedOver).await
            }
            Self::ServerKilled => processes::server_killed(stack, scale, found).await,
            Self::Killed => processes::killed(stack, scale, found).await,
            Self::BundleEndpointsGone => partner::endpoints_gone(stack, scale, found).await,
            Self::AgentStopped => agent::stopped(stack, scale, found).await,
            Self::AgentStalled => agent::stalled(stack, scale, found).await,
            Self::AgentWithNewKeys => agent::new_keys(stack, found).await,
            Self::SvidExpires => agent::svid_expires(found).await,
            Self::Overload => processes::overload(stack, scale, found).await,
            Self::NoFilesLeft => processes::no_files_left(stack, scale, found).await,
        }
    }
}

impl Findings {
    /// Adds requests of which none may have failed.
    pub(crate) fn strict(&mut self, tally: Tally) {
        self.allowing(tally, Wanted::default());
    }

    /// Adds requests. Those that failed although `wanted` does not allow it are a fault. Returns
    /// the judgement of GETs and of POSTs.
    pub(crate) fn allowing(&mut self, tally: Tally, wanted: Wanted) -> [Judgement; 2] {
        let [gets, posts] = tally.judge(wanted);
        self.requests += tally.requests();
        self.posts += tally.posts();
        self.judged = self.judged + gets + posts;
        self.worst = self.worst.max(tally.worst);
        if gets.failed + posts.failed > 0 {
            self.faults.extend(tally.failures(wanted));
        }
        [gets, posts]
    }

    /// Adds one request that was refused as required.
    pub(crate) fn refused(&mut self) {
        self.requests += 1;
        self.judged.refused += 1;
    }

    /// Adds a measurement.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a measurement that must not exceed `most`, which is for optimised binaries.
    pub(crate) fn within(&mut self, what: &str, time: Duration, most: Duration) {
        let most = most * SLOWER;
        self.note(format!("{what} after {} ms", time.as_millis()));
        self.check(
            time <= most,
            format!("{what} after {time:?}, more than {most:?}"),
        );
    }

    /// Adds a fault unless `holds` is true.
    pub(crate) fn check(&mut self, holds: bool, fault: impl Into<String>) {
        if !holds {
            self.faults.push(fault.into());
        }
    }
}
