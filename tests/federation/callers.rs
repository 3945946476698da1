use harness::{CLIENT_ID, SERVER_ID};

use crate::{Domains, THEIR_CLIENT};

#[tokio::test]
async fn client_of_another_trust_domain_is_allowed_by_name_only_f016() {
    let domains = Domains::federated().await;
    let request = async |args: &[&str]| {
        let server = domains.ours.server(args).await;
        let port = server.listening().await;
        let args = ["--server-id", SERVER_ID, SERVER_ID];
        let output = domains.theirs.client(port, &args).await;
        (
            server,
            String::from_utf8(output.stdout).unwrap(),
            output.stderr,
        )
    };
    let (server, body, _) = request(&["--allow", THEIR_CLIENT]).await;
    assert_eq!(body, "Success!!!");
    server.logged(&format!("caller={THEIR_CLIENT}")).await;

    for args in [&[][..], &["--allow", "spiffe://partner.example/other"]] {
        let (server, body, errors) = request(args).await;
        assert_eq!(
            (&*body, &*errors),
            ("", &b"403 Forbidden\n"[..]),
            "{args:?}"
        );
        server.logged(&format!("Not allowed: {THEIR_CLIENT}")).await;
    }
}

#[tokio::test]
async fn each_trust_domain_vouches_for_its_own_callers_only_f016() {
    let domains = Domains::federated().await;
    let all = [
        "--allow",
        "spiffe://partner.example/*",
        "--allow",
        CLIENT_ID,
    ];
    let server = domains.ours.server(&all).await;
    let (ours, theirs) = (&domains.ours.agent, &domains.theirs.agent);
    for (agent, caller, status) in [
        (ours, CLIENT_ID, 200),
        (theirs, THEIR_CLIENT, 200),
        (ours, THEIR_CLIENT, 401),
        (theirs, CLIENT_ID, 401),
    ] {
        let token = agent.mint_jwt(&agent.jwt_claims(caller, &[SERVER_ID]));
        let got = domains.status(&server, &token).await;
        assert_eq!(got, status, "{caller} by {}", agent.trust_domain());
    }
}
