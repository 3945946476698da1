//! Runs processes of two trust domains, whose agents fetch each other's bundles from their endpoints.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Authenticates and allows callers of the other trust domain.
mod callers;
/// Lets bundles arrive late, stale and empty, and rotates their keys.
mod changes;
/// Serves answers that are not a bundle.
mod odd;
/// Verifies peers of the other trust domain.
mod peers;

use dev_agent::{BundleEndpoint, Config, DevAgent, Partner, PartnerProfile};
use harness::{SERVER_ID, Stack, process::Process, wait::until};
use spiffe::TrustDomain;

const THEIR_SERVER: &str = "spiffe://partner.example/server";
const THEIR_CLIENT: &str = "spiffe://partner.example/client";

/// Two trust domains, example.org and partner.example, each with entries for our binaries.
struct Domains {
    ours: Stack,
    theirs: Stack,
}

impl Domains {
    /// Starts both. Each agent has fetched the other one's bundle.
    async fn federated() -> Self {
        let domains = Self::strangers().await;
        let (ours, theirs) = (&domains.ours.agent, &domains.theirs.agent);
        for (agent, other) in [(ours, theirs), (theirs, ours)] {
            follow(agent, other);
            agent.refresh(other.trust_domain()).await.unwrap();
        }
        domains
    }

    /// Starts both. Neither has the other one's bundle.
    async fn strangers() -> Self {
        let endpoint = |config: &mut Config| {
            let any_port = "127.0.0.1:0".parse().unwrap();
            config.bundle_endpoint = Some(BundleEndpoint::new(any_port));
        };
        let ours = Stack::with(SERVER_ID, endpoint).await;
        let theirs = Stack::with("spiffe://partner.example/test", |config| {
            for entry in &mut config.entries {
                let theirs = entry.to_string().replace("example.org", "partner.example");
                *entry = format!("{theirs};dns=localhost").parse().unwrap();
            }
            config.jwt_issuer = Some("https://partner.example".to_owned());
            endpoint(config);
        })
        .await;
        Self { ours, theirs }
    }

    /// Fetches their bundle for our workloads now.
    async fn refresh(&self) {
        let refreshed = self.ours.agent.refresh(&partner()).await;
        refreshed.unwrap();
    }

    /// Returns a token of their client for our server.
    fn their_token(&self) -> String {
        let agent = &self.theirs.agent;
        agent.mint_jwt(&agent.jwt_claims(THEIR_CLIENT, &[SERVER_ID]))
    }

    /// Sends `token` to our server. Returns the status.
    async fn status(&self, server: &Process, token: &str) -> u16 {
        let https = self.ours.https(server.listening().await);
        https.status(token).await
    }

    /// Waits until our server answers `token` with `status`.
    async fn until_status(&self, server: &Process, token: &str, status: u16) {
        until(async || self.status(server, token).await == status).await;
    }
}

fn partner() -> TrustDomain {
    TrustDomain::new("partner.example").unwrap()
}

/// Lets `agent` fetch the bundle of `other`, which it has now.
fn follow(agent: &DevAgent, other: &DevAgent) {
    let profile = PartnerProfile::HttpsSpiffe {
        id: None,
        bundle: Some(other.federation().document().to_owned()),
    };
    let url = format!("https://{}/", other.bundle_endpoint().unwrap());
    let partner = Partner::new(other.trust_domain().clone(), &url, profile);
    agent.federate_with(partner.unwrap()).unwrap();
}
