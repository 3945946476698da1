use harness::{
    https::{Https, WholeAnswer},
    upstream::Http,
};
use http::Version;
use tokio::{task::JoinSet, time::timeout};

use crate::holding::{Holding, QUICK, post};

/// The source address of another caller.
const OTHER: &str = "127.0.0.2";

/// Sends a request of each of these lengths and returns once all are held.
async fn hold(holding: &mut Holding, version: Version, lengths: &[usize]) -> JoinSet<WholeAnswer> {
    let mut answers = JoinSet::new();
    for &length in lengths {
        let https = holding.https.clone();
        answers.spawn(async move { https.send_over(version, post("/?hold", length)).await });
    }
    holding.arrive(lengths.len(), "unread bodies").await;
    answers
}

/// Sends POSTs of 100 bytes and of 10 KB from another address. Meanwhile the held requests fill
/// every buffer between their caller and the upstream.
async fn others_are_quick(https: &Https, what: &str) {
    let https = https.from(OTHER);
    for round in 0..15 {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for length in [100, 10_000] {
                let asking = https.send_over(version, post("/", length));
                let answer = timeout(QUICK, asking).await;
                let answer = answer.unwrap_or_else(|_| {
                    panic!("{what}: {length} bytes in round {round} over {version:?}")
                });
                assert_eq!(answer.status, 200, "{what}");
                assert_eq!(answer.body, length.to_string(), "{what}");
            }
        }
    }
}

const BOTH: &[&str] = &["h2", "http/1.1"];
const HTTP2: &[&str] = &["h2"];
const HTTP1: &[&str] = &["http/1.1"];

/// Sets the windows to the defaults of HTTP/2 (RFC 9113 §6.9.2).
fn small_windows(http: &mut Http) {
    http.http2()
        .initial_connection_window_size(65_535)
        .initial_stream_window_size(65_535);
}

async fn unread_bodies(alpn: &[&str], lengths: &[usize], change: impl Fn(&mut Http)) {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let what = format!("{alpn:?} {} bodies over {version:?}", lengths.len());
        let mut holding = Holding::new(alpn, "30s", &change).await;
        let held = hold(&mut holding, version, lengths).await;
        others_are_quick(&holding.https, &what).await;
        holding.release(lengths.len());
        let mut answered: Vec<usize> = Vec::new();
        for answer in held.join_all().await {
            assert_eq!(answer.status, 200, "{what}");
            answered.push(
                String::from_utf8(answer.body.to_vec())
                    .unwrap()
                    .parse()
                    .unwrap(),
            );
        }
        let mut expected = lengths.to_vec();
        expected.sort();
        answered.sort();
        assert_eq!(answered, expected, "{what}");
    }
}

const LARGE: usize = 2 * 1024 * 1024;

#[tokio::test]
async fn one_unread_body_of_2_mb_holds_up_no_other_post() {
    for alpn in [BOTH, HTTP2, HTTP1] {
        unread_bodies(alpn, &[LARGE], |_| ()).await;
    }
}

#[tokio::test]
async fn eight_unread_bodies_of_2_mb_hold_up_no_other_post() {
    for alpn in [BOTH, HTTP2, HTTP1] {
        unread_bodies(alpn, &[LARGE; 8], |_| ()).await;
    }
}

#[tokio::test]
async fn unread_bodies_of_2_mb_hold_up_no_other_post_where_windows_are_small() {
    for alpn in [BOTH, HTTP2] {
        unread_bodies(alpn, &[LARGE; 8], small_windows).await;
    }
}

/// Returns lengths of 1 to 8 KiB, and some near the length up to which bodies share a connection.
fn small_bodies() -> Vec<usize> {
    let near = [1, 100, 8 * 1024 - 1, 8 * 1024, 8 * 1024 + 1];
    (0..120).map(|n| 1024 + n * 59).chain(near).collect()
}

#[tokio::test]
async fn many_small_unread_bodies_hold_up_no_other_post() {
    for alpn in [BOTH, HTTP2, HTTP1] {
        unread_bodies(alpn, &small_bodies(), |_| ()).await;
    }
}

#[tokio::test]
async fn many_small_unread_bodies_hold_up_no_other_post_where_windows_are_small() {
    for alpn in [BOTH, HTTP2] {
        unread_bodies(alpn, &small_bodies(), small_windows).await;
    }
}
