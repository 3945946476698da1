//! Starts a second trust domain, which federates with that of a stack, and changes both.
//!
//! Its callers send to the stack's servers, and the stack's callers send to its server. So each
//! domain verifies tokens of the other one, and certificates of the other one.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use common::workload::WorkloadApi;
use dev_agent::{BundleEndpoint, Config, DevAgent, EndpointMode, PartnerProfile, PartnerState};
use harness::{CLIENT_ID, SERVER_ID, binary};
use tokio::time::sleep;

use crate::{
    caller::Caller,
    findings::{A_WHILE, AT_ONCE, Findings, SOON},
    identity::refused,
    load::Traffic,
    node::{Node, PATIENCE, until},
    scale::Scale,
    stack::{STRANGER_ID, Stack},
    tally::Wanted,
};

/// The server of the second trust domain.
const THEIR_SERVER: &str = "spiffe://partner.example/server";
/// The refresh hint of both bundles. The agents fetch them at least as often.
const HINT: Duration = Duration::from_secs(1);
/// The time for which a new key is published before it signs. Each agent has fetched it by then.
const LEAD: Duration = Duration::from_secs(2);
/// The requests in each direction, as a part of those of the stack's own callers.
const PART: f64 = 0.25;
/// The answers to callers of the other trust domain while there is no relationship.
const UNRELATED: Wanted = Wanted {
    statuses: &[401, 502, 503],
    broken: false,
    lost_posts: &[],
};

/// The second trust domain, and the requests that cross between the two.
struct Partner {
    agent: DevAgent,
    server: Node,
    /// A proxy of the first trust domain in front of `server`.
    proxy: Node,
    inbound: Traffic,
    outbound: Traffic,
}

impl Partner {
    /// Starts the second trust domain, the relationship in both directions, and the requests.
    async fn start(stack: &Stack) -> Result<Self> {
        let agent = start_agent(stack).await?;
        let endpoint = agent.endpoint();
        trust_them(stack, &agent).await?;
        trust_us(stack, &agent).await?;

        let args = ["--listen", "127.0.0.1:0", "--allow", CLIENT_ID];
        let server = stack.start_node(&endpoint, "server", &args).await?;
        let upstream = format!("https://localhost:{}", server.port()?);
        let args = [
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            &upstream,
            "--upstream-id",
            THEIR_SERVER,
        ];
        let proxy = stack.start_node(&stack.endpoint(), "proxy", &args).await?;
        let api = WorkloadApi::new(endpoint.parse()?, PATIENCE);
        let inbound = Caller::new(stack.proxy.port()?, &api, STRANGER_ID, SERVER_ID).await?;
        let outbound = Caller::new(proxy.port()?, &stack.api, CLIENT_ID, THEIR_SERVER).await?;
        let partner = Self {
            agent,
            server,
            proxy,
            inbound: Traffic::new(Arc::new(inbound)),
            outbound: Traffic::new(Arc::new(outbound)),
        };
        for traffic in partner.traffic() {
            traffic.go_with(&stack.load, PART);
        }
        Ok(partner)
    }

    fn traffic(&self) -> [&Traffic; 2] {
        [&self.inbound, &self.outbound]
    }

    /// Adds the requests since the last time to the findings. There must be some in each direction.
    fn take(&self, found: &mut Findings, wanted: Wanted) {
        for traffic in self.traffic() {
            let tally = traffic.take();
            found.check(tally.requests() > 0, "no requests in one direction");
            found.allowing(tally, wanted);
        }
    }

    /// Returns a token of its caller for the stack's servers.
    fn token(&self) -> String {
        let claims = self.agent.jwt_claims(STRANGER_ID, &[SERVER_ID]);
        self.agent.mint_jwt(&claims)
    }

    /// Returns whether both agents have the other one's bundle from its endpoint.
    async fn is_current(&self, stack: &Stack) -> Option<()> {
        let theirs = self.agent.status().partners.first()?.state;
        let ours = stack.status().await.ok()?["partners"][0]["state"] == "current";
        (ours && theirs == PartnerState::Current).then_some(())
    }

    /// Stops everything. Requests since the last time may not have failed.
    async fn end(mut self, stack: &Stack, found: &mut Findings) -> Result<()> {
        for traffic in self.traffic() {
            traffic.rest();
        }
        sleep(A_WHILE / 4).await;
        for traffic in self.traffic() {
            found.strict(traffic.take());
        }
        stack.ctl(&["unfederate", &self.domain()]).await?;
        self.proxy.stop().await?;
        self.server.stop().await?;
        self.agent.stop().await;
        Ok(())
    }

    fn domain(&self) -> String {
        self.agent.trust_domain().id_string()
    }
}

/// Starts the agent of the second trust domain.
async fn start_agent(stack: &Stack) -> Result<DevAgent> {
    let socket = tempfile::tempdir_in(stack.directory())?.keep();
    let own = std::env::current_exe()?.canonicalize()?;
    let entry = |id: &str, path: PathBuf| {
        format!("{id}=unix:path:{};dns=localhost", path.display()).parse()
    };
    let entries = vec![
        entry(STRANGER_ID, own)?,
        entry(THEIR_SERVER, binary("server"))?,
    ];
    let mut config = Config::new(socket.join("agent.sock"), entries);
    config.bundle_endpoint = Some(BundleEndpoint {
        refresh_hint: HINT,
        ..BundleEndpoint::new("127.0.0.1:0".parse()?)
    });
    Ok(DevAgent::start(config).await?)
}

/// Lets the stack's agent fetch the bundle of the second trust domain.
async fn trust_them(stack: &Stack, agent: &DevAgent) -> Result<()> {
    let file = stack.directory().join("partner-bundle.json");
    fs::write(&file, agent.federation().document())?;
    let address = agent.bundle_endpoint().context("no bundle endpoint")?;
    let domain = agent.trust_domain().id_string();
    let with = format!("{domain}=https://{address};bundle={}", file.display());
    stack.ctl(&["federate-with", &with]).await?;
    Ok(())
}

/// Lets the second trust domain fetch the bundle of the stack's agent.
async fn trust_us(stack: &Stack, agent: &DevAgent) -> Result<()> {
    let profile = PartnerProfile::HttpsSpiffe {
        id: None,
        bundle: Some(stack.ctl(&["bundle"]).await?),
    };
    let status = stack.status().await?;
    let address = status["bundle_endpoint"]["address"].as_str();
    let url = format!("https://{}", address.context("no bundle endpoint")?);
    let domain = spiffe::TrustDomain::new("example.org")?;
    let partner = dev_agent::Partner::new(domain, &url, profile)?;
    Ok(agent.federate_with(partner)?)
}

/// Gets a new token, as callers do before the key of the last one is removed.
async fn renew(caller: &Caller) -> Result<()> {
    let current = caller.tokens.token().await?;
    caller.tokens.invalidate(&current);
    caller.tokens.token().await?;
    Ok(())
}

/// Rotates the CA and the JWT key of both trust domains at the same time, and removes the old ones.
pub(crate) async fn keys_rotated(stack: &Stack, scale: Scale, found: &mut Findings) -> Result<()> {
    let partner = Partner::start(stack).await?;
    let lead = format!("{}s", LEAD.as_secs());
    let our_ca = ["rotate-ca", "--lead", &lead];
    let our_key = ["rotate-jwt", "--lead", &lead];
    for _ in 0..scale.times(10).clamp(1, 3) {
        let old = partner.token();
        let (ca, key, ca_of_ours, key_of_ours) = tokio::join!(
            partner.agent.rotate_ca_with_lead(LEAD),
            partner.agent.rotate_jwt_key_with_lead(LEAD),
            stack.ctl(&our_ca),
            stack.ctl(&our_key),
        );
        ensure!(ca.is_some() && key.is_some(), "the partner did not rotate");
        ca_of_ours.and(key_of_ours)?;
        let status = partner.inbound.caller().status(&partner.token()).await?;
        found.check(status == 200, format!("a new key's first token: {status}"));
        for traffic in [&stack.load, &partner.inbound, &partner.outbound] {
            renew(traffic.caller()).await?;
        }
        sleep(A_WHILE / 2).await;

        let begun = Instant::now();
        partner.agent.drop_old_ca();
        partner.agent.drop_old_jwt_key();
        refused(stack, &old).await?;
        found.within(
            "a token of the key that is gone refused",
            begun.elapsed(),
            HINT + AT_ONCE,
        );
        found.refused();
        stack.ctl(&["drop-old-ca"]).await?;
        stack.ctl(&["drop-old-jwt"]).await?;
        sleep(A_WHILE / 2).await;
    }
    partner.take(found, Wanted::default());
    sleep(A_WHILE / 4).await;
    partner.end(stack, found).await
}

/// Takes both bundle endpoints away for longer than the hint.
pub(crate) async fn endpoints_gone(
    stack: &Stack,
    scale: Scale,
    found: &mut Findings,
) -> Result<()> {
    let partner = Partner::start(stack).await?;
    until(async || partner.is_current(stack).await).await?;
    partner.agent.set_endpoint_mode(EndpointMode::Gone).await?;
    stack.ctl(&["endpoint", "gone"]).await?;
    sleep(scale.seconds(30)).await;
    let ours = stack.status().await?["partners"][0]["state"] == "failing";
    let theirs = partner.agent.status().partners.first().map(|one| one.state);
    found.check(
        ours && theirs == Some(PartnerState::Failing),
        "an agent does not say that the endpoint is gone",
    );
    partner.take(found, Wanted::default());

    let begun = Instant::now();
    partner
        .agent
        .set_endpoint_mode(EndpointMode::Normal)
        .await?;
    stack.ctl(&["endpoint", "normal"]).await?;
    until(async || partner.is_current(stack).await).await?;
    found.within("fetched again", begun.elapsed(), HINT * 2);
    sleep(A_WHILE / 4).await;
    partner.end(stack, found).await
}

/// Ends the relationship and begins it again. The stack's own callers see nothing of it.
pub(crate) async fn federation_ended(stack: &Stack, found: &mut Findings) -> Result<()> {
    let partner = Partner::start(stack).await?;
    let token = partner.token();
    let outbound = partner.outbound.caller();
    let ours = outbound.tokens.token().await?;
    let caller = stack.load.caller();
    sleep(A_WHILE / 2).await;
    ensure!(
        caller.status(&token).await? == 200 && outbound.status(ours.token()).await? == 200,
        "refused too soon"
    );
    partner.take(found, Wanted::default());

    let begun = Instant::now();
    stack.ctl(&["unfederate", &partner.domain()]).await?;
    let (theirs_refused, server_refused) = tokio::join!(
        async { refused(stack, &token).await.map(|()| begun.elapsed()) },
        async {
            let refused = async || (outbound.status(ours.token()).await.ok()? != 200).then_some(());
            until(refused).await.map(|_| begun.elapsed())
        },
    );
    found.within("their callers refused", theirs_refused?, AT_ONCE);
    found.within("their server refused", server_refused?, AT_ONCE);
    found.refused();
    sleep(A_WHILE / 2).await;

    let begun = Instant::now();
    trust_them(stack, &partner.agent).await?;
    until(async || (caller.status(&token).await.ok()? == 200).then_some(())).await?;
    found.within("their callers accepted again", begun.elapsed(), AT_ONCE);
    until(async || (outbound.status(ours.token()).await.ok()? == 200).then_some(())).await?;
    found.within("their server accepted again", begun.elapsed(), SOON);
    // Callers that were refused last send their next request now.
    sleep(A_WHILE / 2).await;
    partner.take(found, UNRELATED);
    sleep(A_WHILE / 2).await;
    partner.end(stack, found).await
}
