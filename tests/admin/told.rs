//! Compares the four places that report each state of an identity at once: the status line of the service, `/ready`,
//! the metrics and the log.

use std::time::Duration;

use dev_agent::pb;
use harness::{
    SERVER_ID, Stack,
    admin::{ADMIN, Admin},
    fake_workload_api::{Fake, Genuine},
    manager::Manager,
    metrics::Page,
    process::Process,
};
use spiffe::SpiffeId;

/// The life of an SVID, whose end a test can wait for.
const SHORT: Duration = Duration::from_secs(15);

/// A server, its service manager, and its admin listener.
struct Told {
    manager: Manager,
    server: Process,
    admin: Admin,
}

/// The texts about a state.
struct Words {
    /// The state of the process, and of the condition `identity`.
    states: (&'static str, &'static str),
    /// The beginning of the text in the status line.
    line: &'static str,
    /// The text in the log.
    log: &'static str,
    /// The beginning of the reason in `/ready`.
    reason: &'static str,
}

impl Told {
    async fn start(endpoint: &str, args: &[&str]) -> Self {
        let manager = Manager::start();
        let args = [&["--listen", "127.0.0.1:0"], &ADMIN[..], args].concat();
        let server = manager.spawn_at(endpoint, "server", &args, &[]);
        manager.told("READY=1").await;
        Self {
            admin: Admin::of(&server).await,
            manager,
            server,
        }
    }

    async fn wait_for(&self, words: &Words) {
        let (process, state) = words.states;
        self.manager.told(&format!("; {}", words.line)).await;
        let (status, identity) = self.admin.becomes(process, "identity", state).await;
        assert_eq!(status, if process == "not ready" { 503 } else { 200 });
        let reason = identity["reason"].as_str().unwrap();
        assert!(reason.starts_with(words.reason), "{reason}");
        let sample = format!(
            "spiffe_readiness{{state=\"{}\"}}",
            process.replace(' ', "_")
        );
        Page::wait_for(&self.admin, &sample, 1.0).await;
        self.server.logged(words.log).await;
    }
}

#[tokio::test]
async fn end_of_an_identity_is_told_in_each_place_step_by_step() {
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = SHORT).await;
    let told = Told::start(&stack.agent.endpoint(), &[]).await;
    stack.agent.stop().await;
    for words in [
        Words {
            states: ("degraded", "degraded"),
            line: "lost the Workload API; continuing",
            log: "lost the Workload API; continuing",
            reason: "the Workload API is away",
        },
        Words {
            states: ("degraded", "degraded"),
            line: "no new X.509-SVID has come",
            log: "no new X.509-SVID has come",
            reason: "no new X.509-SVID has come",
        },
        Words {
            states: ("not ready", "lost"),
            line: "the X.509-SVID has expired",
            log: "the X.509-SVID has expired",
            reason: "the X.509-SVID has expired",
        },
    ] {
        told.wait_for(&words).await;
    }
    stack.agent.restart().await.unwrap();
    told.admin.becomes("ready", "identity", "met").await;
    stack.agent.withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    told.wait_for(&Words {
        states: ("not ready", "lost"),
        line: "identity withdrawn by the Workload API",
        log: "identity withdrawn by the Workload API",
        reason: "withdrawn by the Workload API",
    })
    .await;
}

#[tokio::test]
async fn updates_that_cannot_be_used_are_told_in_each_place_until_the_grace_is_over() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let told = Told::start(&fake.endpoint(), &["--bundle-grace", "8s"]).await;
    let bundles = [("spiffe://example.org".to_owned(), b"{}".to_vec())].into();
    fake.say_jwt_bundles(Ok(pb::JwtBundlesResponse { bundles }));
    told.wait_for(&Words {
        states: ("degraded", "degraded"),
        line: "the Workload API sends updates that can't be used",
        log: "the JWT bundle can't be used: it has no array of keys",
        reason: "the Workload API sends updates that can't be used",
    })
    .await;
    let name = "jwt_bundles/example.org";
    let (_, bundle) = told.admin.becomes("degraded", name, "degraded").await;
    let reason = bundle["reason"].as_str().unwrap();
    assert!(reason.contains("it has no array of keys"), "{reason}");
    told.wait_for(&Words {
        states: ("not ready", "lost"),
        line: "the Workload API has sent no usable bundles for too long",
        log: "the Workload API has sent no usable bundles for too long",
        reason: "the Workload API has sent no usable bundles for too long",
    })
    .await;
    told.admin.becomes("not ready", name, "lost").await;
}

#[tokio::test]
async fn client_that_waits_for_a_token_tells_so_in_each_place() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    fake.hold_tokens(true);
    let manager = Manager::start();
    let args = ["--listen", "127.0.0.1:0", "--url", "https://127.0.0.1:1"];
    let args = [&ADMIN[..], &args].concat();
    let client = manager.spawn_at(&fake.endpoint(), "client", &args, &[]);
    manager
        .told("STATUS=waiting for the first JWT-SVID of each route")
        .await;
    let admin = Admin::of(&client).await;
    let (status, token) = admin.becomes("not ready", "token", "lost").await;
    assert_eq!(
        (status, token["reason"].as_str()),
        (503, Some("waiting for a JWT-SVID"))
    );
    Page::wait_for(&admin, "spiffe_readiness{state=\"not_ready\"}", 1.0).await;
    let claims = stack.agent.jwt_claims(SERVER_ID, &[SERVER_ID]);
    let token = harness::fake_workload_api::token(stack.agent.mint_jwt(&claims));
    fake.script.tokens.lock().unwrap().push(token);
    fake.hold_tokens(false);
    manager.told("READY=1").await;
    admin.becomes("ready", "token", "met").await;
}
