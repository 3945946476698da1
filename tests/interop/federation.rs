use std::{fs, time::Duration};

use crate::copy;
use dev_agent::{
    BundleEndpoint, Config, DevAgent, EndpointIdentity, EndpointMode, Partner, PartnerProfile,
    WebCertificate,
};
use harness::{
    SERVER_ID, Stack,
    installed::go_program,
    process::{Process, command},
    x509::Authority,
};

/// Starts an agent that serves its bundle, which others fetch again every second.
async fn serving(identity: EndpointIdentity) -> Stack {
    Stack::with("spiffe://example.org/test", |config: &mut Config| {
        config.bundle_endpoint = Some(BundleEndpoint {
            identity,
            refresh_hint: Duration::from_secs(1),
            ..BundleEndpoint::new("127.0.0.1:0".parse().unwrap())
        });
    })
    .await
}

/// Starts go-spiffe's watcher of an agent's bundle.
fn watch(go: &tempfile::TempDir, agent: &DevAgent, args: &[&str]) -> Process {
    let port = agent.bundle_endpoint().unwrap().port();
    let url = format!("https://localhost:{port}");
    let role = [
        "bundle-watcher",
        "-trust-domain",
        "example.org",
        "-url",
        &url,
    ];
    let program = go.path().join("program");
    let args = [&role[..], args].concat();
    Process::spawn(command(&program, &agent.endpoint(), &args))
}

fn seen(agent: &DevAgent, authorities: usize, keys: usize) -> String {
    let sequence = agent.status().bundle_endpoint.unwrap().sequence;
    format!(
        "bundle of example.org: sequence {sequence}, hint 1s, authorities {authorities} X.509, {keys} JWT"
    )
}

#[tokio::test]
async fn go_spiffe_follows_the_endpoint_through_rotations_and_faults_f019() {
    let Some(go) = go_program("interop/go-spiffe").await else {
        return;
    };
    let stack = serving(EndpointIdentity::Spiffe(None)).await;
    let agent = &stack.agent;
    let file = go.path().join("bundle.json");
    fs::write(&file, agent.federation().document()).unwrap();
    let id = "spiffe://example.org/spire/server";
    let watcher = watch(&go, agent, &["-id", id, "-bundle", file.to_str().unwrap()]);
    watcher.logged(&seen(agent, 1, 1)).await;
    agent.prepare_ca();
    watcher.logged(&seen(agent, 2, 1)).await;
    agent.rotate_ca();
    agent.drop_old_ca();
    agent.rotate_jwt_key();
    watcher.logged(&seen(agent, 1, 2)).await;

    for (mode, reason) in [
        (EndpointMode::WrongIdentity, "unexpected ID"),
        (EndpointMode::WrongCertificate, "unknown authority"),
        // It does not look at the status.
        (EndpointMode::NotFound, "unexpected end of JSON input"),
        (EndpointMode::Garbage, "invalid character '<'"),
        (EndpointMode::Gone, "connection refused"),
    ] {
        agent.set_endpoint_mode(mode).await.unwrap();
        watcher.logged(reason).await;
    }
    agent.set_endpoint_mode(EndpointMode::Normal).await.unwrap();
    agent.drop_old_jwt_key();
    watcher.logged(&seen(agent, 1, 1)).await;
}

#[tokio::test]
async fn go_spiffe_verifies_the_endpoint_by_its_name_f019() {
    let Some(go) = go_program("interop/go-spiffe").await else {
        return;
    };
    let (certificate, ca) = named("localhost");
    let stack = serving(EndpointIdentity::Web(certificate)).await;
    let file = go.path().join("ca.pem");
    fs::write(&file, ca).unwrap();
    let args = ["-ca", file.to_str().unwrap()];
    let watcher = watch(&go, &stack.agent, &args);
    watcher.logged(&seen(&stack.agent, 1, 1)).await;

    let (certificate, ca) = named("elsewhere");
    let stack = serving(EndpointIdentity::Web(certificate)).await;
    fs::write(&file, ca).unwrap();
    let watcher = watch(&go, &stack.agent, &args);
    watcher.logged("certificate is valid for elsewhere").await;
}

#[tokio::test]
async fn dev_agent_fetches_the_bundle_of_go_spiffes_handler_f019() {
    let Some(go) = go_program("interop/go-spiffe").await else {
        return;
    };
    let go = go.path().join("program");
    let ours = crate::stack(&go).await;
    let args = ["bundle-server", "-listen", "127.0.0.1:0"];
    let program = copy(&go, "server");
    let server = Process::spawn(command(&program, &ours.agent.endpoint(), &args));
    let url = format!("https://localhost:{}/bundle", server.listening().await);
    let profile = PartnerProfile::HttpsSpiffe {
        id: Some(SERVER_ID.to_owned()),
        bundle: Some(ours.agent.federation().document().to_owned()),
    };
    let domain = ours.agent.trust_domain().clone();
    let directory = tempfile::tempdir().unwrap();
    let entry = "spiffe://partner.example/a=unix:uid:0".parse().unwrap();
    let mut config = Config::new(directory.path().join("agent.sock"), vec![entry]);
    config.partners = vec![Partner::new(domain.clone(), &url, profile).unwrap()];
    let agent = DevAgent::start(config).await.unwrap();
    agent.refresh(&domain).await.unwrap();
    server.logged("GET /bundle").await;
    ours.agent.prepare_ca();
    ours.agent.prepare_jwt_key();
    let keys = async || {
        agent.refresh(&domain).await.unwrap();
        let bundle = agent.federated(&domain).unwrap();
        let document: serde_json::Value = serde_json::from_str(bundle.document()).unwrap();
        document["keys"].as_array().unwrap().len()
    };
    harness::wait::until(async || keys().await == 4).await;
}

/// Returns a certificate with this name, and its CA in PEM.
fn named(name: &str) -> (WebCertificate, String) {
    let root = Authority::root();
    let (chain, key) = root.issue_pem(name);
    let certificate = WebCertificate::from_pem(chain.as_bytes(), key.as_bytes());
    (certificate.unwrap(), root.pem())
}
