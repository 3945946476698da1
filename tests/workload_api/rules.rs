use common::workload::{WorkloadApi, tokens::TokenSource};
use dev_agent::pb;
use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, Stack,
    fake_workload_api::{Call, Fake, Genuine, token},
    https::Https,
    process,
    wait::until,
    x509::Authority,
};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
};
use tonic::{Code, Status};

#[tokio::test]
async fn audiences_and_subject_are_asked_for_as_they_are_given_t016() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let given = ["b", SERVER_ID, "a"];
    let svid = stack.token(|claims| claims.payload["aud"] = json!(given));
    let fake = Fake::new(&genuine);
    *fake.script.tokens.lock().unwrap() = vec![token(svid.clone())];
    let args = [&["--print-token"][..], &given].concat();
    let output = process::output("client", &fake.endpoint(), &args).await;
    assert_eq!(output.stdout, format!("{svid}\n").into_bytes());
    let id = CLIENT_ID.parse().unwrap();
    let api = fake.workload_api(PATIENCE);
    api.fetch_jwt_svid(&given, Some(&id)).await.unwrap();
    let request = |spiffe_id: &str| pb::JwtsvidRequest {
        audience: given.map(str::to_owned).to_vec(),
        spiffe_id: spiffe_id.to_owned(),
    };
    let asked = fake.script.asked.lock().unwrap();
    assert_eq!(*asked, [request(""), request(CLIENT_ID)]);
}

#[tokio::test]
async fn token_that_is_no_longer_issued_is_not_used_again_t017() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let denied = Err(Status::new(Code::PermissionDenied, "no identity issued"));
    *fake.script.tokens.lock().unwrap() = vec![token(stack.token(|_| ())), denied];
    let tokens = TokenSource::new(fake.workload_api(PATIENCE), vec![SERVER_ID.into()], None);
    let svid = tokens.token().await.unwrap();
    // A token that was refused is returned again only while the agent issues tokens.
    tokens.invalidate(&svid);
    until(async || tokens.token().await.is_err()).await;
}

#[tokio::test]
async fn intermediates_of_the_own_svid_are_presented_t018() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let root = Authority::root();
    let intermediate = root.intermediate(|_| ());
    let svid = intermediate.issue(SERVER_ID, |params| {
        let name = "localhost".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::DnsName(name));
    });
    let message = svid.below(&intermediate).message(SERVER_ID, &root);
    let fake = Fake::new(&genuine);
    let mut x509 = genuine.x509.clone();
    x509.svids = vec![message];
    fake.say_x509(Ok(x509));
    let (_server, port) = fake.server(&[]).await;
    // The caller knows the root alone.
    let https = Https::new(port, &root.pem());
    https.try_connect(b"h2").await.unwrap();
}

/// Passes connections of a TCP port on to the agent, which sees this process as their caller.
async fn over_tcp(path: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut agent = UnixStream::connect(&path).await.unwrap();
            // Either side may end the connection in any way.
            tokio::spawn(async move { drop(copy_bidirectional(&mut tcp, &mut agent).await) });
        }
    });
    port
}

#[tokio::test]
async fn workload_api_over_tcp_issues_an_identity_t019() {
    let stack = Stack::new().await;
    let path = stack.agent.endpoint();
    let port = over_tcp(path.strip_prefix("unix://").unwrap().to_owned()).await;
    let address = format!("tcp://127.0.0.1:{port}").parse().unwrap();
    let identity = WorkloadApi::new(address, PATIENCE)
        .identity()
        .await
        .unwrap();
    let id = identity.x509.svid().unwrap().spiffe_id().to_string();
    assert_eq!(id, SERVER_ID);
}

/// [`Fake`] refuses a call whose header is another.
#[tokio::test]
async fn each_call_has_the_security_header_once_t020() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    *fake.script.tokens.lock().unwrap() = vec![token(stack.token(|_| ()))];
    fake.identity().await;
    let api = fake.workload_api(PATIENCE);
    api.x509_bundles().await.unwrap();
    api.fetch_jwt_svid(&[SERVER_ID], None).await.unwrap();
    for call in [Call::X509, Call::X509Bundles, Call::JwtBundles, Call::Token] {
        fake.wait_for_calls(call, 1).await;
    }
}
