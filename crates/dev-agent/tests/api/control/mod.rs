use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use dev_agent::{
    KeyUse, Phase, Status,
    control::{Command, ControlSocket, MAX_WAIT, Reply, ask, default_path},
};
use tokio::time::sleep;
use tonic::Code;

use crate::support::{self, TestAgent, soon};

/// Malformed, partial and missing input.
mod input;

const A: &str = "spiffe://example.org/a";

/// Runs a test against an agent, and passes it the agent's control socket.
async fn controlled(test: impl AsyncFnOnce(&TestAgent, &Path)) {
    let agent = TestAgent::start(&[
        "spiffe://example.org/a=unix:uid:{uid}",
        "spiffe://example.org/b=unix:uid:{uid};hint=b",
    ])
    .await;
    let path = default_path(agent.socket());
    let control = ControlSocket::bind(&path).await.unwrap();
    tokio::select! {
        () = test(&agent, &path) => {}
        never = control.serve(&agent) => match never {},
    }
    assert!(!path.exists());
}

async fn done(path: &Path, command: Command) -> String {
    match soon(ask(path, &command)).await.unwrap() {
        Reply::Done(done) => done,
        other => panic!("{command:?}: {other:?}"),
    }
}

async fn refused(path: &Path, command: Command) -> String {
    match soon(ask(path, &command)).await.unwrap() {
        Reply::Refused(reason) => reason,
        other => panic!("{command:?}: {other:?}"),
    }
}

async fn status(path: &Path) -> Status {
    match soon(ask(path, &Command::Status)).await.unwrap() {
        Reply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Asks for the status until it is as wanted.
async fn until(path: &Path, wanted: impl Fn(&Status) -> bool) {
    support::until(async || wanted(&status(path).await)).await;
}

fn uses(status: &Status) -> (Vec<KeyUse>, Vec<KeyUse>) {
    let cas = status.cas.iter().map(|ca| ca.key_use);
    let jwt_keys = status.jwt_keys.iter().map(|key| key.key_use);
    (cas.collect(), jwt_keys.collect())
}

#[tokio::test]
async fn the_control_socket_is_open_to_its_owner_only() {
    controlled(async |agent, path| {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let mut expected = agent.socket().as_os_str().to_owned();
        expected.push(".ctl");
        assert_eq!(path, PathBuf::from(expected));
        let error = ControlSocket::bind(path).await.unwrap_err().to_string();
        assert!(error.contains("another agent is listening"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn identities_are_rotated_withdrawn_and_restored() {
    controlled(async |agent, path| {
        let mut svids = agent.x509_stream().await;
        let first = svids.next().await;
        let serials = |status: Status| status.entries.into_iter().map(|e| e.serial);
        let before: Vec<_> = serials(status(path).await).collect();
        let answer = done(path, Command::RotateX509).await;
        assert_eq!(answer, "all X.509-SVIDs issued again");
        let second = svids.next().await;
        assert_ne!(second.svids[0].x509_svid, first.svids[0].x509_svid);
        let after: Vec<_> = serials(status(path).await).collect();
        assert!(after.iter().zip(&before).all(|(a, b)| a != b));

        let id = || A.to_owned();
        let answer = done(path, Command::Withdraw { id: id() }).await;
        assert_eq!(answer, "withdrawn: spiffe://example.org/a");
        assert_eq!(svids.next().await.svids[..], second.svids[1..]);
        let withdrawn = status(path).await.entries;
        let withdrawn: Vec<_> = withdrawn.iter().map(|e| e.withdrawn).collect();
        assert_eq!(withdrawn, [true, false]);

        let answer = done(path, Command::Restore { id: id() }).await;
        assert_eq!(answer, "restored: spiffe://example.org/a");
        assert_eq!(svids.next().await, second);
    })
    .await;
}

#[tokio::test]
async fn an_id_without_an_entry_is_refused_with_the_known_ids() {
    controlled(async |_, path| {
        for (id, reason) in [
            (
                "spiffe://example.org/c",
                "no entry has the SPIFFE ID 'spiffe://example.org/c'; there are spiffe://example.org/a, spiffe://example.org/b",
            ),
            ("a", "'a' is not a SPIFFE ID"),
            ("spiffe://EXAMPLE.org/a", "use 'spiffe://example.org/a'"),
            ("\u{1b}[2J\n", "'\\u{1b}[2J\\n' is not a SPIFFE ID"),
        ] {
            let id = id.to_owned();
            for command in [Command::Withdraw { id: id.clone() }, Command::Restore { id }] {
                let refusal = refused(path, command).await;
                assert!(refusal.contains(reason), "{refusal}");
            }
        }
        assert!(status(path).await.entries.iter().all(|e| !e.withdrawn));
    })
    .await;
}

#[tokio::test]
async fn a_new_key_is_published_for_its_lead_and_then_used() {
    use KeyUse::{Current, Next, Old};
    controlled(async |agent, path| {
        let mut svids = agent.x509_stream().await;
        let first = svids.next().await;
        let lead = Duration::from_secs(3);
        let rotated = tokio::join!(
            done(path, Command::RotateCa { lead }),
            done(path, Command::RotateJwt { lead }),
            async {
                until(path, |status| status.cas.len() == 2).await;
                until(path, |status| status.jwt_keys.len() == 2).await;
                let both = vec![Current, Next];
                assert_eq!(uses(&status(path).await), (both.clone(), both));
                let known = svids.next().await;
                assert_eq!(known.svids[0].x509_svid, first.svids[0].x509_svid);
                assert!(known.svids[0].bundle.len() > first.svids[0].bundle.len());
                let under_it = svids.next().await;
                assert_ne!(under_it.svids[0].x509_svid, known.svids[0].x509_svid);
            }
        );
        let now = status(path).await;
        assert_eq!(rotated.0, format!("new CA in use: {}", now.cas[0].name));
        let kid = &now.jwt_keys[0].kid;
        assert_eq!(rotated.1, format!("new JWT key in use: {kid}"));
        assert_eq!(uses(&now), (vec![Current, Old], vec![Current, Old]));

        assert_eq!(done(path, Command::DropOldCa).await, "old CAs dropped: 1");
        let answer = done(path, Command::DropOldJwt).await;
        assert_eq!(answer, "old JWT keys dropped: 1");
        assert_eq!(uses(&status(path).await), (vec![Current], vec![Current]));
        assert_eq!(done(path, Command::DropOldCa).await, "old CAs dropped: 0");
    })
    .await;
}

/// Nothing is signed with a key that was published less than its lead ago, whatever comes between.
#[tokio::test(start_paused = true)]
async fn concurrent_rotations_keep_their_lead() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let current = || agent.status().cas[0].name.clone();
    let next = || {
        agent
            .status()
            .cas
            .into_iter()
            .find(|ca| ca.key_use == KeyUse::Next)
    };
    let lead = Duration::from_secs(60);
    let (first, second, ()) = tokio::join!(
        agent.rotate_ca_with_lead(lead),
        async {
            sleep(lead / 2).await;
            agent.rotate_ca_with_lead(lead).await
        },
        async {
            let old = current();
            sleep(lead - Duration::from_secs(1)).await;
            assert_eq!(current(), old);
            sleep(Duration::from_secs(2)).await;
            assert_ne!(current(), old);
            agent.prepare_ca();
            sleep(lead).await;
            assert_eq!(next().unwrap().name, agent.status().cas[1].name);
        }
    );
    assert!(first.is_some());
    assert_eq!(first, second, "the second found the first one's key");
    assert_eq!(first.as_ref(), Some(&current()));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_another_one_overtakes_reports_no_key() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let lead = Duration::from_secs(60);
    let (ca, jwt_key, ()) = tokio::join!(
        agent.rotate_ca_with_lead(lead),
        agent.rotate_jwt_key_with_lead(lead),
        async {
            sleep(lead / 2).await;
            for _ in 0..2 {
                agent.rotate_ca();
                agent.rotate_jwt_key();
            }
        }
    );
    assert_eq!((ca, jwt_key), (None, None));
}

#[tokio::test]
async fn a_stalled_agent_waits_and_a_stopped_one_does_not() {
    controlled(async |agent, path| {
        let mut svids = agent.x509_stream().await;
        svids.next().await;
        assert_eq!(done(path, Command::Stall).await, "stalled");
        assert_eq!(status(path).await.phase, Phase::Stalled);
        done(path, Command::RotateX509).await;
        assert!(svids.is_silent().await);
        assert_eq!(done(path, Command::Unstall).await, "serving");
        svids.next().await;

        agent.stop().await;
        for command in [Command::Stall, Command::Unstall] {
            let refusal = refused(path, command).await;
            assert!(refusal.contains("the agent is stopped"), "{refusal}");
        }
        agent.stall();
        assert_eq!(status(path).await.phase, Phase::Stopped);
    })
    .await;
}

#[tokio::test]
async fn an_agent_restarts_with_the_same_keys_or_with_new_ones() {
    controlled(async |agent, path| {
        let restart = |new_keys| Command::Restart {
            down_for: Duration::ZERO,
            new_keys,
        };
        let mut svids = agent.x509_stream().await;
        let first = svids.next().await;
        let answer = done(path, restart(false)).await;
        assert_eq!(answer, "restarted with the same keys");
        assert_eq!(svids.end().await.code(), Code::Unavailable);
        assert_eq!(agent.x509_stream().await.next().await, first);

        let answer = done(path, restart(true)).await;
        assert_eq!(answer, "restarted with new keys");
        let other = agent.x509_stream().await.next().await;
        assert_ne!(other.svids[0].bundle, first.svids[0].bundle);
    })
    .await;
}

#[tokio::test]
async fn commands_work_while_the_agent_is_down_and_a_second_restart_is_refused() {
    controlled(async |agent, path| {
        let restart = |down_for| Command::Restart {
            down_for,
            new_keys: false,
        };
        let long = restart(MAX_WAIT);
        let mut down = pin!(ask(path, &long));
        let meanwhile = async {
            until(path, |status| status.phase == Phase::Stopped).await;
            assert!(!agent.socket().exists());
            done(path, Command::RotateX509).await;
            let refusal = refused(path, restart(Duration::ZERO)).await;
            assert!(refusal.contains("being restarted already"), "{refusal}");
        };
        tokio::select! {
            reply = &mut down => panic!("{reply:?}"),
            () = meanwhile => {}
        }
        let too_long = MAX_WAIT + Duration::from_nanos(1);
        let refusal = refused(path, restart(too_long)).await;
        assert!(refusal.contains("longer than 3600s"), "{refusal}");
    })
    .await;
}

#[tokio::test]
async fn bundles_of_other_trust_domains_are_added_and_removed() {
    let other = TestAgent::start(&["spiffe://b.test/x=unix:uid:{uid}"]).await;
    controlled(async |agent, path| {
        let federate = |trust_domain: &str, document: String| Command::Federate {
            trust_domain: trust_domain.to_owned(),
            document,
        };
        let unfederate = |trust_domain: &str| Command::Unfederate {
            trust_domain: trust_domain.to_owned(),
        };
        let document = || other.federation().document().to_owned();
        let mut bundles = agent.x509_bundle_stream().await;
        bundles.next().await;

        let answer = done(path, federate("spiffe://b.test", document())).await;
        assert_eq!(answer, "federated: spiffe://b.test");
        let first = bundles.next().await.bundles["spiffe://b.test"].clone();
        other.rotate_ca();
        done(path, federate("spiffe://b.test", document())).await;
        assert_ne!(bundles.next().await.bundles["spiffe://b.test"], first);
        assert_eq!(status(path).await.federated, ["spiffe://b.test"]);

        let own = agent.federation().document().to_owned();
        for (command, reason) in [
            (federate("spiffe://b.test", "{".to_owned()), "not JSON"),
            (federate("spiffe://example.org", own), "own trust domain"),
            (federate("b.test", document()), "is not a trust domain"),
            (unfederate("spiffe://c.test"), "bundles of spiffe://b.test"),
        ] {
            let refusal = refused(path, command).await;
            assert!(refusal.contains(reason), "{refusal}");
        }

        let answer = done(path, unfederate("spiffe://b.test")).await;
        assert_eq!(answer, "unfederated: spiffe://b.test");
        assert_eq!(bundles.next().await.bundles.len(), 1);
        let refusal = refused(path, unfederate("spiffe://b.test")).await;
        assert!(refusal.contains("there are no bundle"), "{refusal}");
    })
    .await;
}

#[tokio::test]
async fn the_status_counts_streams_and_has_no_secret() {
    controlled(async |agent, path| {
        assert_eq!(status(path).await.open_streams, 0);
        let mut svids = agent.x509_stream().await;
        let bundles = agent.jwt_bundle_stream().await;
        let key = svids.next().await.svids.remove(0).x509_svid_key;
        assert_eq!(status(path).await.open_streams, 2);
        drop((svids, bundles));
        until(path, |status| status.open_streams == 0).await;

        let status = status(path).await;
        assert_eq!(status.trust_domain, "example.org");
        assert_eq!(status.entries[0].spiffe_id, A);
        let left = status.entries[0].expiry.seconds_left;
        assert!((3500..=3600).contains(&left), "{left}");
        let json = serde_json::to_string(&status).unwrap();
        let hex: String = key[40..56].iter().map(|b| format!("{b:02x}")).collect();
        assert!(!json.contains(&hex));
    })
    .await;
}
