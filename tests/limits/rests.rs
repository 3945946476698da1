use std::time::{Duration, Instant};

use crate::next_frame;
use harness::{
    Stack,
    frames::{
        DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, PING, POST, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, frame,
    },
    https::Https,
    process::Process,
    raw::Client,
};

/// The product's bounds on what is read of a body after its answer.
const DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The product's flow-control window of a stream.
const WINDOW: usize = 128 * 1024;

const PART: usize = 16 * 1024;

/// The most bytes that a server reads after its connection has ended. It reads them of an upload
/// that the proxy forwards over HTTP/1.1.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Starts a server and a proxy in front of it. Both answer 401 before a body has come.
async fn refusing(stack: &Stack) -> (Vec<Process>, [Https; 2]) {
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let ways = [
        stack.https(server.listening().await),
        stack.https(proxy.listening().await),
    ];
    (vec![server, proxy], ways)
}

/// Sends the body of an HTTP/2 upload, on stream 1, that was refused.
struct Refused {
    http2: Frames,
    window: usize,
    sent: usize,
}

impl Refused {
    async fn new(https: &Https) -> Self {
        let mut http2 = Frames::connect(https, &[]).await;
        let acknowledged = frame(SETTINGS, 1, 0, b"");
        let head = frame(HEADERS, END_HEADERS, 1, POST);
        http2.send(&[acknowledged, head].concat()).await;
        let mut refused = Self {
            http2,
            window: WINDOW,
            sent: 0,
        };
        loop {
            let frame = refused.next().await;
            assert_ne!(frame.kind, RST_STREAM, "the stream is answered first");
            if frame.kind == DATA && frame.flags & END_STREAM != 0 {
                return refused;
            }
        }
    }

    async fn next(&mut self) -> Frame {
        let frame = next_frame(&mut self.http2).await;
        if frame.kind == WINDOW_UPDATE && frame.stream == 1 {
            let more: [u8; 4] = frame.payload[..].try_into().unwrap();
            self.window += u32::from_be_bytes(more) as usize;
        }
        frame
    }

    /// Sends the body up to `bytes`, as the window allows. Returns `false` if the stream is reset
    /// meanwhile.
    async fn send(&mut self, bytes: usize) -> bool {
        while self.sent < bytes {
            let part = (bytes - self.sent).min(PART);
            while self.window < part {
                if self.next().await.kind == RST_STREAM {
                    return false;
                }
            }
            if !self.http2.send(&frame(DATA, 0, 1, &vec![b'a'; part])).await {
                return false;
            }
            self.window -= part;
            self.sent += part;
        }
        true
    }

    /// Ends the body. Returns `false` if the stream is reset although its body ended.
    async fn end(&mut self) -> bool {
        let ping = frame(PING, 0, 0, &[7; 8]);
        let end = frame(DATA, END_STREAM, 1, b"");
        self.http2.send(&[end, ping].concat()).await;
        loop {
            match self.next().await.kind {
                RST_STREAM => return false,
                PING => return true,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_refused_http2_body_is_read_up_to_256_kib() {
    let stack = Stack::new().await;
    let (_processes, ways) = refusing(&stack).await;
    for (https, after) in ways.iter().zip([0, LINGER_BYTES]) {
        for length in [1, 1000, WINDOW + 1, DRAIN_BYTES - 1] {
            let mut refused = Refused::new(https).await;
            assert!(
                refused.send(length).await,
                "a body of {length} is not reset"
            );
            assert!(refused.end().await, "a body of {length} is not reset");
        }
        let mut refused = Refused::new(https).await;
        assert!(
            !refused.send(4 * LINGER_BYTES).await,
            "a long body is reset"
        );
        let most = DRAIN_BYTES + 2 * WINDOW + PART + after;
        assert!(
            (DRAIN_BYTES..=most).contains(&refused.sent),
            "{} bytes were taken",
            refused.sent
        );
    }
}

#[tokio::test]
async fn the_rest_of_a_refused_http2_body_is_waited_for_5_s_by_each_process() {
    let stack = Stack::new().await;
    let (_processes, ways) = refusing(&stack).await;
    let waiting = ways.map(|https| async move {
        let start = Instant::now();
        let mut refused = Refused::new(&https).await;
        assert!(refused.send(1000).await);
        while refused.next().await.kind != RST_STREAM {}
        start.elapsed()
    });
    for waited in futures_util::future::join_all(waiting).await {
        // The proxy waits after the server has waited.
        let expected = DRAIN_TIME - Duration::from_millis(100)..DRAIN_TIME * 3;
        assert!(expected.contains(&waited), "{waited:?}");
    }
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn with_length(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

fn chunks(bytes: usize) -> String {
    format!("400\r\n{}\r\n", "a".repeat(1024)).repeat(bytes / 1024)
}

#[tokio::test]
async fn an_http1_connection_is_kept_after_the_rest_of_a_refused_body_of_known_length() {
    let stack = Stack::new().await;
    let (_processes, ways) = refusing(&stack).await;
    for https in &ways {
        let mut client = Client::new(https).await;
        // The proxy reads a shorter body before it forwards anything.
        for length in [20 * 1024, 100 * 1024, DRAIN_BYTES] {
            client.send([&with_length(length), "a"].concat()).await;
            let refused = client.answer().await.unwrap();
            assert_eq!(refused.status(), 401);
            assert!(refused.fields("connection").is_empty());
            client.send([&"a".repeat(length - 1), GET].concat()).await;
            let next = client.answer().await;
            assert_eq!(
                next.expect("the connection is kept").status(),
                401,
                "after {length}"
            );
        }
    }
}

#[tokio::test]
async fn an_http1_connection_is_kept_after_a_refused_chunked_body_that_came_with_its_head() {
    let stack = Stack::new().await;
    let (_processes, ways) = refusing(&stack).await;
    for https in &ways {
        let mut client = Client::new(https).await;
        for length in [0, 1024, 7 * 1024] {
            let post = [CHUNKED, &chunks(length), "0\r\n\r\n"].concat();
            client.send([&post, GET].concat()).await;
            for _ in 0..2 {
                let next = client.answer().await.expect("the connection is kept");
                assert_eq!(next.status(), 401, "after {length}");
            }
        }
    }
}

#[tokio::test]
async fn an_http1_answer_says_that_its_connection_ends_where_the_rest_is_unknown_or_too_long() {
    let stack = Stack::new().await;
    let (_processes, ways) = refusing(&stack).await;
    for https in &ways {
        for begun in [
            [CHUNKED, "1\r\na\r\n"].concat(),
            with_length(2 * DRAIN_BYTES),
        ] {
            let mut client = Client::sending(https, begun).await;
            let refused = client.answer().await.unwrap();
            assert_eq!(refused.status(), 401);
            assert_eq!(refused.fields("connection"), ["close"]);
            client
                .send([&chunks(2 * LINGER_BYTES), "0\r\n\r\n", GET].concat())
                .await;
            let (rest, _) = client.end().await;
            assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_refused_http1_body_is_waited_for_5_s_by_each_process() {
    let stack = Stack::new().await;
    let (_processes, ways) = refusing(&stack).await;
    let waiting = ways.map(|https| async move {
        let start = Instant::now();
        let mut client = Client::sending(&https, with_length(20 * 1024)).await;
        assert_eq!(client.answer().await.unwrap().status(), 401);
        client.end().await;
        start.elapsed()
    });
    for waited in futures_util::future::join_all(waiting).await {
        assert!((DRAIN_TIME..DRAIN_TIME * 4).contains(&waited), "{waited:?}");
    }
}
