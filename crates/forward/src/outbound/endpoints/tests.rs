use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    time::advance,
};
use tokio_util::either::Either;

use super::*;
use crate::outbound::{
    age::Age,
    connection::{Wire, handshake},
    connector::Offer,
    origin::{At, Origin},
    url::{Protocol, UpstreamUrl},
};

type Tested = Endpoints<Full<Bytes>>;

const NEED: Need = Need::SMALL;

fn origin() -> Origin {
    Origin::new(&UpstreamUrl::host(
        Protocol::Https,
        "name:1".parse().unwrap(),
    ))
}

fn locations(count: u64) -> Vec<Arc<Location>> {
    let origin = Arc::new(origin());
    let location = |id: u64| {
        Arc::new(Location {
            id,
            origin: Arc::clone(&origin),
            addresses: vec![format!("10.0.0.{id}:1").parse().unwrap()],
        })
    };
    (1..=count).map(location).collect()
}

fn endpoints(count: u64) -> Tested {
    Tested::new(
        &locations(count),
        &Arc::new(FairQueue::new(9)),
        &Arc::default(),
    )
}

fn at() -> At {
    At::new(&origin(), &[])
}

fn refused() -> Error {
    Error::Failed(at(), String::new())
}

/// Returns the endpoint to try next, and whether it is ejected.
fn next(endpoints: &Tested, failed: Option<&Failed>, tried: &[u64]) -> Option<(u64, bool)> {
    let candidate = endpoints.choose_to_open(NEED, failed, tried)?;
    Some((candidate.id, candidate.is_ejected))
}

#[test]
fn endpoints_follow_their_locations() {
    let all = locations(3);
    let mut endpoints = Tested::new(&all[..2], &Arc::new(FairQueue::new(9)), &Arc::default());
    endpoints.eject(2, &refused());
    endpoints.update(&all[1..]);
    let ids: Vec<_> = endpoints.all.iter().map(Endpoint::id).collect();
    assert_eq!(ids, [2, 3]);
    let health = &endpoints.all[0].health;
    assert!(health.failed().is_some(), "a known endpoint stays as it is");
}

#[tokio::test(start_paused = true)]
async fn ejected_endpoints_are_tried_last_and_the_first_to_fail_is_tried_first() {
    let mut endpoints = endpoints(3);
    for id in [2, 1] {
        endpoints.eject(id, &refused());
        advance(Duration::from_millis(10)).await;
    }
    let failed = endpoints.fail(3);
    assert_eq!(next(&endpoints, None, &[]), Some((3, false)));
    let again = next(&endpoints, Some(&failed), &[]);
    assert_eq!(again, Some((3, false)), "it is better than an ejected one");
    assert_eq!(next(&endpoints, None, &[3]), Some((2, true)));
    assert_eq!(next(&endpoints, None, &[3, 2]), Some((1, true)));
    assert_eq!(next(&endpoints, None, &[3, 2, 1]), None);

    advance(Duration::from_secs(2)).await;
    let other = next(&endpoints, Some(&failed), &[1]);
    assert_eq!(other, Some((2, false)), "another than the one that failed");
    endpoints.eject(2, &refused());
    endpoints.renew();
    let other = next(&endpoints, Some(&failed), &[1]);
    assert_eq!(
        other,
        Some((2, false)),
        "failures by old trust are forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn endpoints_without_a_connection_are_looked_for_again_after_their_pauses() {
    let mut endpoints = endpoints(2);
    assert_eq!(endpoints.unconnected(Instant::now()), [0, 1]);
    assert!(endpoints.unconnected(Instant::now()).is_empty());
    endpoints.eject(1, &refused());
    assert!(endpoints.unconnected(Instant::now()).is_empty());
    advance(Duration::from_secs(2)).await;
    assert_eq!(endpoints.unconnected(Instant::now()), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_not_ejected_while_the_own_identity_is_missing() {
    let mut endpoints = endpoints(1);
    endpoints.eject(1, &Error::NoTrust(at()));
    assert_eq!(next(&endpoints, None, &[]), Some((1, false)));
}

#[test]
fn only_connections_after_a_failure_or_a_change_of_trust_are_newer() {
    let mut endpoints = endpoints(2);
    let before = endpoints.generation;
    let failed = endpoints.fail(1);
    assert!(before < failed.since && failed.since <= endpoints.generation);
    assert_eq!(since(Some(&failed), &endpoints.all[0]), failed.since);
    assert!(since(Some(&failed), &endpoints.all[1]) <= before);
    assert!(before >= endpoints.trusted());
    endpoints.renew();
    assert!(failed.since < endpoints.trusted());
}

#[tokio::test]
async fn an_endpoint_that_spoke_only_http2_may_speak_http1_later() {
    let mut endpoints = endpoints(1);
    let endpoint = endpoints.at_index(0);
    endpoint.note_refused_http1();
    let need = Need::Exclusive(Speech::Http1);
    assert!(endpoint.may_open(need), "there is no connection");
    assert_eq!(endpoint.offer(need), Offer::Http1);
    assert_eq!(
        endpoint.offer(Need::Exclusive(Speech::Any)),
        Offer::Http2,
        "only what needs HTTP/1.1 asks for it"
    );
    assert!(!endpoint.speaks(Speech::Http1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let wire = Wire::Plaintext {
        io: Either::Left(TcpStream::connect(address).await.unwrap()),
        is_http2: false,
    };
    let opened = handshake(wire, true).await.unwrap();
    endpoint.add(Generation::default(), (opened, Age::of(None)), Offer::Http1);
    assert!(endpoint.speaks(Speech::Http1));
    assert_eq!(endpoint.offer(Need::Exclusive(Speech::Any)), Offer::Http1);
}
