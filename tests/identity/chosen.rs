use common::workload::{Choice, Identity, Readiness, Unready, tokens::TokenSource};
use dev_agent::pb;
use spiffe::{BundleSource, JwtSvid, SpiffeId, TrustDomain};
use tonic::Status;

use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, Stack,
    fake_workload_api::{Fake, Genuine, token},
    process,
    wait::{becomes, until},
};

const OTHER_ID: &str = "spiffe://example.org/other";

/// Returns the server's SVID, and one of another identity of the same agent.
async fn two_svids(stack: &Stack) -> [pb::X509svid; 2] {
    let mut svids = Genuine::of(stack).await.x509.svids;
    let [other, server] = [svids.remove(1), svids.remove(0)];
    [server, other]
}

/// Starts an agent for which the test's own process is the server and another workload.
async fn stack() -> Stack {
    Stack::with(SERVER_ID, |config| {
        let own = config.entries.last().unwrap().selectors()[0].clone();
        let other = format!("{OTHER_ID}={own};hint=second;dns=localhost");
        config.entries.push(other.parse().unwrap());
    })
    .await
}

/// Returns the identity of a process that has chosen the other workload's.
async fn other_identity(fake: &Fake) -> Identity {
    let api = fake.workload_api(PATIENCE);
    let other = Choice::Id(SpiffeId::new(OTHER_ID).unwrap());
    api.choose(other).identity().await.unwrap()
}

fn is_withdrawn(now: &Readiness) -> bool {
    matches!(now, Readiness::NotReady(Unready::Withdrawn(_)))
}

async fn presented(stack: &Stack, port: u16) -> SpiffeId {
    let leaf = stack.https(port).presented().await.unwrap();
    spiffe::cert::spiffe_id_from_der(&leaf).unwrap()
}

/// The order of an answer has no meaning, because SPIRE orders by entries with random IDs.
#[tokio::test]
async fn identity_of_the_start_is_kept_while_it_is_issued_w177() {
    let stack = stack().await;
    let [server, other] = two_svids(&stack).await;
    let mut genuine = Genuine::of(&stack).await;
    genuine.x509.svids = vec![server.clone()];
    let fake = Fake::new(&genuine);
    let (mut process, port) = fake.server(&[]).await;
    let say = |svids: &[&pb::X509svid]| {
        let svids = svids.iter().map(|one| (*one).clone()).collect();
        let message = pb::X509svidResponse {
            svids,
            ..genuine.x509.clone()
        };
        fake.say_x509(Ok(message));
    };
    stack.agent.rotate_x509();
    let [newer, _] = two_svids(&stack).await;
    let leaf = newer.x509_svid.clone();
    say(&[&other, &newer]);
    let https = stack.https(port);
    until(async || https.presented().await.as_deref() == Some(&leaf[..])).await;

    say(&[&other]);
    let line = process.logged("this process is now").await;
    assert!(
        line.contains("WARN") && line.contains(OTHER_ID) && line.contains(SERVER_ID),
        "{line}"
    );
    assert!(line.contains("an audience that was derived from"), "{line}");
    assert_eq!(presented(&stack, port).await.to_string(), OTHER_ID);
    // The identity that was taken then is kept too.
    say(&[&server, &other]);
    stack.agent.rotate_x509();
    let [_, newer] = two_svids(&stack).await;
    let leaf = newer.x509_svid.clone();
    say(&[&server, &newer]);
    until(async || https.presented().await.as_deref() == Some(&leaf[..])).await;
    let log = process.whole_log().await;
    assert_eq!(log.matches("this process is now").count(), 1, "{log}");
}

#[tokio::test]
async fn chosen_identity_is_used_whatever_the_order_w178() {
    let stack = stack().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    for (args, expected) in [
        (&[] as &[&str], SERVER_ID),
        (&["--spiffe-id", OTHER_ID], OTHER_ID),
        (&["--spiffe-id", SERVER_ID], SERVER_ID),
        (&["--hint", "second"], OTHER_ID),
    ] {
        let (_server, port) = fake.server(args).await;
        assert_eq!(
            presented(&stack, port).await.to_string(),
            expected,
            "{args:?}"
        );
    }
}

#[tokio::test]
async fn chosen_identity_that_is_not_issued_is_an_error_that_lists_those_that_are_w178() {
    let stack = stack().await;
    let endpoint = stack.agent.endpoint();
    for (args, text) in [
        (
            ["--spiffe-id", "spiffe://example.org/nobody"],
            "it does not issue spiffe://example.org/nobody; it issues spiffe://example.org/server",
        ),
        (
            ["--hint", "nobody"],
            "it issues no identity with the hint \"nobody\"; it issues spiffe://example.org/server",
        ),
    ] {
        let args = [
            &["--listen", "127.0.0.1:0", "--startup-timeout", "3s"],
            &args[..],
        ]
        .concat();
        let output = process::output("server", &endpoint, &args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(text) && said.contains("--spiffe-id or --hint"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn chosen_identity_that_is_no_longer_issued_is_withdrawn_w170() {
    let stack = stack().await;
    let genuine = Genuine::of(&stack).await;
    let [server, other] = two_svids(&stack).await;
    let fake = Fake::new(&genuine);
    let mut identity = other_identity(&fake).await;
    let with = |svids: Vec<pb::X509svid>| {
        let message = pb::X509svidResponse {
            svids,
            ..genuine.x509.clone()
        };
        fake.say_x509(Ok(message));
    };
    with(vec![server.clone()]);
    becomes(&mut identity.readiness, is_withdrawn).await;
    assert!(identity.x509.svid().is_err());
    with(vec![server, other]);
    let is_ready = |now: &Readiness| *now == Readiness::Ready;
    becomes(&mut identity.readiness, is_ready).await;
    assert_eq!(
        identity.x509.svid().unwrap().spiffe_id().to_string(),
        OTHER_ID
    );
}

#[tokio::test]
async fn identity_that_is_missing_is_withdrawn_although_the_agent_is_away_w170() {
    let stack = stack().await;
    let genuine = Genuine::of(&stack).await;
    let [server, _] = two_svids(&stack).await;
    let fake = Fake::new(&genuine);
    let mut identity = other_identity(&fake).await;
    let federated = ("spiffe://example.com".to_owned(), server.bundle.clone());
    fake.say_x509(Ok(pb::X509svidResponse {
        svids: vec![server],
        federated_bundles: [federated].into(),
        ..genuine.x509.clone()
    }));
    let domain = TrustDomain::new("example.com").unwrap();
    // The message has come when its bundles are in use.
    until(async || {
        let bundles = identity.x509.bundle_set().unwrap();
        matches!(bundles.bundle_for_trust_domain(&domain), Ok(Some(_)))
    })
    .await;
    assert!(identity.x509.svid().is_ok());
    fake.say_x509(Err(Status::unavailable("stopping")));
    becomes(&mut identity.readiness, is_withdrawn).await;
    assert!(identity.x509.svid().is_err());
}

/// SPIRE's agent sends such messages while it renews the X.509-SVIDs of a tainted authority.
#[tokio::test]
async fn identity_that_is_missing_for_a_moment_stays_in_use_w185() {
    let stack = stack().await;
    let genuine = Genuine::of(&stack).await;
    let [server, other] = two_svids(&stack).await;
    stack.agent.rotate_x509();
    let [newer, _] = two_svids(&stack).await;
    let bundle = server.bundle.clone();
    for choice in [&[] as &[&str], &["--spiffe-id", SERVER_ID]] {
        let fake = Fake::new(&genuine);
        let (mut process, port) = fake.server(choice).await;
        let say = |svids: &[&pb::X509svid], federated: &[&str]| {
            let federated = federated.iter().map(|name| (*name).to_owned());
            fake.say_x509(Ok(pb::X509svidResponse {
                svids: svids.iter().map(|one| (*one).clone()).collect(),
                federated_bundles: federated.map(|name| (name, bundle.clone())).collect(),
                ..genuine.x509.clone()
            }));
        };
        say(&[&other], &["spiffe://example.com"]);
        // The bundles of that message are in use at once.
        process.logged("X.509 bundle of example.com").await;
        assert_eq!(presented(&stack, port).await.to_string(), SERVER_ID);
        say(&[&other, &newer], &[]);
        let https = stack.https(port);
        let leaf = &newer.x509_svid[..];
        until(async || https.presented().await.as_deref() == Some(leaf)).await;
        let log = process.whole_log().await;
        for word in ["withdrawn", "this process is now", "issued again"] {
            assert!(!log.contains(word), "{choice:?}: {log}");
        }
    }
}

#[tokio::test]
async fn withdrawn_identity_stays_withdrawn_while_only_others_are_issued_w170() {
    let stack = stack().await;
    let genuine = Genuine::of(&stack).await;
    let [server, _] = two_svids(&stack).await;
    let fake = Fake::new(&genuine);
    let mut identity = other_identity(&fake).await;
    let reason = |now: &Readiness| match now {
        Readiness::NotReady(Unready::Withdrawn(reason)) => reason.clone(),
        other => format!("{other:?}"),
    };
    fake.say_x509(Err(Status::permission_denied("no identity issued")));
    let is_withdrawn = |now: &Readiness| reason(now).contains("no registration entry");
    becomes(&mut identity.readiness, is_withdrawn).await;
    fake.say_x509(Ok(pb::X509svidResponse {
        svids: vec![server],
        ..genuine.x509.clone()
    }));
    let is_next = |now: &Readiness| !is_withdrawn(now);
    let next = reason(&becomes(&mut identity.readiness, is_next).await);
    assert!(next.contains("it does not issue"), "{next}");
    assert!(identity.x509.svid().is_err());
}

#[tokio::test]
async fn client_has_the_token_of_the_chosen_identity_w178() {
    let stack = Stack::with(SERVER_ID, |config| {
        let client = config
            .entries
            .iter()
            .find(|one| one.id().path() == "/client");
        let selector = client.unwrap().selectors()[0].clone();
        let other = format!("{OTHER_ID}={selector};hint=second");
        config.entries.push(other.parse().unwrap());
    })
    .await;
    for (args, expected) in [
        (&[] as &[&str], CLIENT_ID),
        (&["--spiffe-id", OTHER_ID], OTHER_ID),
        (&["--hint", "second"], OTHER_ID),
    ] {
        let args = [&["--print-token"], args].concat();
        let output = process::output("client", &stack.agent.endpoint(), &args).await;
        let token = String::from_utf8(output.stdout).unwrap();
        let svid = JwtSvid::parse_insecure(token.trim()).unwrap();
        assert_eq!(svid.spiffe_id().to_string(), expected, "{args:?}");
    }
    let nobody = "spiffe://example.org/nobody";
    let args = ["--print-token", "--spiffe-id", nobody, "-m", "3s"];
    let output = process::output("client", &stack.agent.endpoint(), &args).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no registration entry"), "{said}");
}

/// The second fetch names the identity of the first one. Another one is taken only if that is not issued.
#[tokio::test]
async fn token_source_keeps_its_identity_while_it_is_issued_w177() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let of = |id: &str| {
        let claims = stack.agent.jwt_claims(id, &[SERVER_ID]);
        token(stack.agent.mint_jwt(&claims))
    };
    let gone = Err(Status::permission_denied("no identity issued"));
    *fake.script.tokens.lock().unwrap() = vec![of(CLIENT_ID), gone, of(OTHER_ID)];
    let source = TokenSource::new(
        fake.workload_api(PATIENCE),
        vec![SERVER_ID.to_owned()],
        None,
    );
    let first = source.token().await.unwrap();
    assert_eq!(first.spiffe_id().to_string(), CLIENT_ID);
    source.invalidate(&first);
    let second = source.token().await.unwrap();
    assert_eq!(second.spiffe_id().to_string(), OTHER_ID);
    let asked = fake.script.asked.lock().unwrap();
    let asked: Vec<_> = asked.iter().map(|one| one.spiffe_id.as_str()).collect();
    assert_eq!(asked, ["", CLIENT_ID, ""]);
}
