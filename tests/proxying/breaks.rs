use std::sync::{Arc, Mutex};

use harness::{
    PATIENCE, Stack,
    frames::{DATA, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, frame, goaway, head, reset},
    https,
    proxy_stack::ProxyStack,
    raw::{Client, End},
    scripted::{Scripted, ScriptedPeer},
};
use http::Version;
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, time::timeout};

use crate::request;

/// The way in which an answer breaks off.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// The upstream sends RST_STREAM with this code.
    Reset(u32),
    /// The upstream sends GOAWAY with this code and the stream as the last one, and closes.
    GoAway(u32),
    /// The upstream sends GOAWAY with this code and a last stream below the stream, and closes.
    GoAwayBelow(u32),
    /// The upstream closes the connection with close_notify.
    Close,
    /// The upstream closes the connection without close_notify.
    Cut,
}

/// Describes an answer whose body is `abc` and does not end its stream.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// The head announces this length.
    length: Option<&'static str>,
    how: Break,
    /// The break comes together with the answer. Otherwise it comes after the caller has read `abc`.
    at_once: bool,
}

/// Holds a proxy and its upstream, which answers as it was last told.
struct Breaking {
    proxied: ProxyStack<Scripted>,
    told: Arc<Mutex<Case>>,
    /// The caller adds a permit when it has read `abc`.
    is_read: Arc<Semaphore>,
}

impl Breaking {
    async fn new() -> Self {
        let told = Arc::new(Mutex::new(Case {
            length: None,
            how: Break::Close,
            at_once: true,
        }));
        let is_read = Arc::new(Semaphore::new(0));
        let script = {
            let (told, is_read) = (Arc::clone(&told), Arc::clone(&is_read));
            move |peer| {
                let (told, is_read) = (Arc::clone(&told), Arc::clone(&is_read));
                async move {
                    let _ = answer(peer, &told, &is_read).await;
                }
            }
        };
        let upstream = async |stack: &Stack| Scripted::new(stack, script).await;
        Self {
            proxied: ProxyStack::before(upstream, &["--cores", "1"]).await,
            told,
            is_read,
        }
    }

    fn tell(&self, case: Case) {
        *self.told.lock().unwrap() = case;
    }

    /// Sends a GET over HTTP/1.x and fails if the answer looks complete.
    async fn check_http1(&self, version: &str, case: Case) {
        self.tell(case);
        let line = format!("GET / HTTP/{version}");
        let bytes = request(&[&line, "Host: a", "Connection: close"], "");
        let mut client = Client::sending(&self.proxied.https, bytes).await;
        if !case.at_once {
            client.read_some(1).await;
            self.is_read.add_permits(1);
        }
        let (bytes, end) = client.end().await;
        let text = String::from_utf8(bytes).unwrap();
        // The proxy may learn of such a break before it has forwarded the head.
        if case.at_once && text.starts_with(&format!("HTTP/{version} 502 ")) {
            return;
        }
        assert_eq!(end, End::Abrupt, "HTTP/{version} {case:?} {text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{case:?} {text}");
    }

    /// Sends a GET over HTTP/2 and fails if the answer looks complete.
    async fn check_http2(&self, case: Case) {
        self.tell(case);
        let asking = self
            .proxied
            .https
            .try_start(Version::HTTP_2, https::get(&[]));
        let answer = match timeout(PATIENCE, asking).await.expect("answers in time") {
            // The proxy may learn of such a break before it has forwarded the head.
            Err(_) if case.at_once => return,
            Ok(answer) if case.at_once && answer.status() == 502 => return,
            answer => answer.unwrap_or_else(|error| panic!("{case:?} {error}")),
        };
        assert_eq!(answer.status(), 200, "{case:?}");
        let mut body = answer.into_body();
        if !case.at_once {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "abc", "{case:?}");
            self.is_read.add_permits(1);
        }
        let rest = timeout(PATIENCE, body.collect()).await;
        let rest = rest.unwrap_or_else(|_| panic!("{case:?} does not end"));
        assert!(rest.is_err(), "{case:?} is complete: {rest:?}");
    }

    /// Runs the `client` binary against the upstream itself.
    async fn check_client(&self, case: Case) {
        self.tell(case);
        let output = self
            .proxied
            .stack
            .client(self.proxied.upstream.port, &[])
            .await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{case:?} {errors}");
        assert!(errors.contains("broke off"), "{case:?} {errors}");
        assert_eq!(errors.lines().count(), 1, "{case:?} {errors}");
    }
}

/// Answers each request of a connection as the test last told.
async fn answer(mut peer: ScriptedPeer, told: &Mutex<Case>, is_read: &Semaphore) -> Option<()> {
    loop {
        let stream = peer.asked().await?.stream;
        let case = *told.lock().unwrap();
        let length = case.length.map(|length| ("content-length", length));
        let fields: Vec<_> = [(":status", "200")].into_iter().chain(length).collect();
        let begun = [head(stream, 0, &fields), frame(DATA, 0, stream, b"abc")].concat();
        let last = match case.how {
            Break::Reset(code) => reset(stream, code),
            Break::GoAway(code) => goaway(stream, code),
            Break::GoAwayBelow(code) => goaway(stream - 1, code),
            Break::Close | Break::Cut => Vec::new(),
        };
        if case.at_once {
            peer.send([begun, last].concat()).await;
        } else {
            peer.send(begun).await;
            is_read.acquire().await.ok()?.forget();
            peer.send(last).await;
        }
        match case.how {
            Break::Reset(_) => {}
            Break::Cut => {
                peer.cut().await;
                return None;
            }
            _ => {
                peer.close().await;
                return None;
            }
        }
    }
}

/// HTTP/2 defines all of these codes but the last one (RFC 9113 §7).
const CODES: [u32; 11] = [
    NO_ERROR,
    1,
    INTERNAL_ERROR,
    3,
    5,
    REFUSED_STREAM,
    8,
    0xa,
    0xb,
    0xd,
    0xff,
];

fn resets() -> Vec<Break> {
    CODES.map(Break::Reset).to_vec()
}

fn ends() -> Vec<Break> {
    let mut ends = vec![Break::Close, Break::Cut];
    for code in [NO_ERROR, INTERNAL_ERROR, 0xb, 0xff] {
        ends.extend([Break::GoAway(code), Break::GoAwayBelow(code)]);
    }
    ends
}

/// Returns cases of each break, with and without a length.
fn cases(breaks: &[Break]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &how in breaks {
        for length in [None, Some("10")] {
            for at_once in [true, false] {
                cases.push(Case {
                    length,
                    how,
                    at_once,
                });
            }
        }
    }
    cases
}

#[tokio::test]
async fn reset_of_a_begun_answer_is_a_break_for_http1_callers() {
    let breaking = Breaking::new().await;
    for case in cases(&resets()) {
        breaking.check_http1("1.1", case).await;
        breaking.check_http1("1.0", case).await;
    }
}

#[tokio::test]
async fn reset_of_a_begun_answer_is_a_break_for_http2_callers() {
    let breaking = Breaking::new().await;
    for case in cases(&resets()) {
        breaking.check_http2(case).await;
    }
}

#[tokio::test]
async fn connection_that_ends_within_an_answer_is_a_break_for_http1_callers() {
    let breaking = Breaking::new().await;
    for case in cases(&ends()) {
        breaking.check_http1("1.1", case).await;
        breaking.check_http1("1.0", case).await;
    }
}

#[tokio::test]
async fn connection_that_ends_within_an_answer_is_a_break_for_http2_callers() {
    let breaking = Breaking::new().await;
    for case in cases(&ends()) {
        breaking.check_http2(case).await;
    }
}

#[tokio::test]
async fn client_says_that_an_answer_broke_off_and_exits_with_1() {
    let breaking = Breaking::new().await;
    let breaks = [
        Break::Reset(NO_ERROR),
        Break::Reset(8),
        Break::Reset(INTERNAL_ERROR),
        Break::Reset(REFUSED_STREAM),
        Break::GoAway(NO_ERROR),
        Break::GoAwayBelow(NO_ERROR),
        Break::GoAway(INTERNAL_ERROR),
        Break::Close,
        Break::Cut,
    ];
    for how in breaks {
        for length in [None, Some("10")] {
            let at_once = true;
            breaking
                .check_client(Case {
                    length,
                    how,
                    at_once,
                })
                .await;
        }
    }
}

/// The upstream may reset a stream like this when its answer is complete (RFC 9113 §8.1).
#[tokio::test]
async fn reset_with_no_error_after_the_whole_answer_is_not_a_break() {
    let breaking = Breaking::new().await;
    breaking.tell(Case {
        length: Some("3"),
        how: Break::Reset(NO_ERROR),
        at_once: true,
    });
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = breaking
            .proxied
            .https
            .send_over(version, https::get(&[]))
            .await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"abc"[..])
        );
    }
    let output = breaking
        .proxied
        .stack
        .client(breaking.proxied.upstream.port, &[])
        .await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"abc");
}
