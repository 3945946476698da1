//! Defines the events of a drill, in the order in which they happen on each of the two stacks.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    agent, findings::Findings, identity, partner, processes, report::Row, scale::Scale,
    stack::Stack,
};

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
            found.check(false, format!("{error:#}"));
        }
        found.strict(stack.load.take());
        Ok(found.row(self.title()))
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
