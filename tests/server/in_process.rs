use std::sync::Arc;

use common::{
    bearer::{Allow, Authenticator, Enforcement, Policy},
    reason::Reason,
    tls,
};
use forward::outbound::{ExclusiveLimit, Protocol, Timeouts, Upstream, UpstreamUrl};
use http::{Request, Response, StatusCode};
use proxy::Proxy;
use serve::{
    Handler, Limits, Received, Shared,
    body::{self, Body},
    listen::Security,
    peer::Peer,
    shutdown,
};
use server::Server;
use tokio::net::TcpListener;

use harness::{
    PATIENCE, SERVER_ID, Stack,
    https::{Https, get},
    raw::Client,
};

/// One core of the server and one of the proxy run in the test's own process, without a binary.
#[tokio::test]
async fn one_core_of_server_and_proxy_serves_in_the_test_process_until_a_stop() {
    let stack = Stack::new().await;
    let identity = stack.identity().await;
    let own = identity.x509.svid().unwrap().spiffe_id().clone();
    let (trigger, shutdown) = shutdown::channel();

    let allow = Allow::members_of(own.trust_domain().clone());
    let policy = Policy::new(vec![SERVER_ID.to_owned()], allow);
    let server = Server {
        tls: tls::server(&identity.x509).unwrap(),
        takes_certificates: false,
        authenticator: Arc::new(Authenticator::new(identity.jwt.clone(), policy)),
        enforcement: Enforcement::On,
        observed: Arc::default(),
        forwarding: None,
        shared: Shared::new(Limits::new(100)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(server::run(listener, server, shutdown.clone()));

    let url = UpstreamUrl::host(Protocol::Https, address.parse().unwrap());
    let timeouts = Timeouts::all(PATIENCE);
    let upstream = Upstream::new(vec![url], timeouts, ExclusiveLimit::new(10));
    let proxy = Proxy {
        tls: tls::server(&identity.x509).unwrap(),
        upstream_tls: tls::client(&identity.x509, &own),
        upstream,
        paths: ["/".parse().unwrap()].into(),
        shared: Shared::new(Limits::new(100)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let https = stack.https(listener.local_addr().unwrap().port());
    let proxying = tokio::spawn(proxy::run(listener, proxy, shutdown));

    let token = stack.bearer();
    let answer = https.send(get(&[("authorization", &token)])).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "Success!!!");
    assert_eq!(https.send(get(&[])).await.status, 401);

    trigger.stop();
    proxying.await.unwrap();
    serving.await.unwrap();
}

/// Panics at each request to `/fault`.
#[derive(Clone)]
struct Faulty;

impl Handler for Faulty {
    async fn handle(&self, request: Request<Received>, _: &Peer) -> Response<Body> {
        assert_ne!(request.uri().path(), "/fault", "the fault of this program");
        body::text(StatusCode::OK, "served")
    }
}

#[tokio::test]
async fn fault_of_this_program_ends_its_request_with_500_and_is_counted_as_internal() {
    let (trigger, shutdown) = shutdown::channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let https = Https::plain(listener.local_addr().unwrap().port());
    let shared = Shared::new(Limits::new(100));
    let serving = serve::serve(
        listener,
        Security::Plaintext,
        Faulty,
        shared.clone(),
        shutdown,
    );
    let serving = tokio::spawn(serving);
    for (path, status) in [("/fault", 500), ("/", 200)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut caller = Client::sending(&https, request).await;
        assert_eq!(caller.answer().await.unwrap().status(), status, "{path}");
    }
    assert_eq!(shared.counts().refused.read(Reason::Internal), 1);
    trigger.stop();
    serving.await.unwrap();
}
