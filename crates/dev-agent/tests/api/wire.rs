use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    task::JoinSet,
};

use crate::support::{TestAgent, soon};

/// A gRPC client that sends any headers and any body, over any stream.
pub(crate) struct Wire(http2::SendRequest<Full<Bytes>>);

/// The number and the text of a gRPC status.
pub(crate) type Status = (u32, String);

/// The answer to one call, message by message.
pub(crate) struct Messages {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        // The window is small, so that unread messages stay at the sender.
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(2000)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn connect(agent: &TestAgent) -> Self {
        Self::over(UnixStream::connect(agent.socket()).await.unwrap()).await
    }

    /// Calls `/SpiffeWorkloadAPI/RPC` with the security header.
    pub(crate) async fn call(&mut self, rpc: &str, message: &[u8]) -> Result<Messages, Status> {
        let path = format!("/SpiffeWorkloadAPI/{rpc}");
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], message].concat();
        self.send(&path, &[("workload.spiffe.io", "true")], body)
            .await
    }

    /// Sends a request with exactly these headers and this body.
    pub(crate) async fn send(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Messages, Status> {
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).unwrap();
        self.0.ready().await.unwrap();
        let response = soon(self.0.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        match status(response.headers()) {
            Some(status) => Err(status),
            None => Ok(Messages {
                body: response.into_body(),
                buffer: Vec::new(),
            }),
        }
    }
}

impl Messages {
    /// Returns the next message, or the status with which the call ends.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, Status> {
        loop {
            if let [0, a, b, c, d, rest @ ..] = &self.buffer[..] {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if rest.len() >= length {
                    let message = rest[..length].to_vec();
                    self.buffer.drain(..5 + length);
                    return Ok(message);
                }
            }
            let frame = soon(self.body.frame()).await.expect("no status").unwrap();
            match frame.into_data() {
                Ok(data) => self.buffer.extend(data),
                Err(frame) => return Err(status(frame.trailers_ref().unwrap()).unwrap()),
            }
        }
    }
}

fn status(headers: &http::HeaderMap) -> Option<Status> {
    let status = tonic::Status::from_header_map(headers)?;
    Some((status.code() as u32, status.message().to_owned()))
}

pub(crate) const ENTRY: &str = "spiffe://example.org/a=unix:uid:{uid}";
const UNIMPLEMENTED: u32 = 12;

/// The status of a malformed call does not repeat the caller's bytes, and the connection stays
/// usable.
#[tokio::test]
async fn a_malformed_message_is_answered_with_a_status_w031() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let mut wire = Wire::connect(&agent).await;
    let path = "/SpiffeWorkloadAPI/ValidateJWTSVID";
    let header = ("workload.spiffe.io", "true");
    let long = "x".repeat(4000);
    let huge = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat();
    for (number, headers, body, expected) in [
        (
            "W31 garbage",
            vec![header],
            b"\0\0\0\0\x05\xff\xff\xff\xff\xff".to_vec(),
            &[13][..],
        ),
        ("W31 more than 4 MiB", vec![header], huge, &[8, 11]),
        (
            "W31 compressed",
            vec![header, ("grpc-encoding", "gzip")],
            vec![1, 0, 0, 0, 0],
            &[UNIMPLEMENTED],
        ),
        (
            "W31 marked as compressed",
            vec![header],
            vec![1, 0, 0, 0, 0],
            &[13, UNIMPLEMENTED],
        ),
        (
            "W32 text of the caller",
            vec![header, ("grpc-encoding", &long)],
            vec![],
            &[UNIMPLEMENTED],
        ),
        ("W31 cut off", vec![header], vec![0, 0, 0], &[13]),
        ("W31 nothing", vec![header], vec![], &[13]),
        (
            "W19 before the message is read",
            vec![],
            b"\0\0\0\0\x05\xff\xff\xff\xff\xff".to_vec(),
            &[3],
        ),
    ] {
        let (code, message) = match wire.send(path, &headers, body).await {
            Err(status) => status,
            Ok(mut messages) => messages.next().await.unwrap_err(),
        };
        assert!(expected.contains(&code), "{number}: {code} {message}");
        assert!(message.is_ascii() && message.len() <= 256, "W32: {message}");
        assert!(!message.contains("xxx"), "W32: {message}");
    }
    wire.call("FetchX509SVID", &[]).await.unwrap();
}

/// All calls here half-close their request at once.
#[tokio::test]
async fn calls_on_one_connection_are_independent_w075() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let mut wire = Wire::connect(&agent).await;
    let mut svids = wire.call("FetchX509SVID", &[]).await.unwrap();
    let mut bundles = wire.call("FetchJWTBundles", &[]).await.unwrap();
    svids.next().await.unwrap();
    bundles.next().await.unwrap();
    let refused = wire.call("FetchJWTSVID", &[]).await.err();
    assert_eq!(refused.map(|(code, _)| code), Some(3));
    agent.rotate_jwt_key();
    bundles.next().await.unwrap();
    agent.rotate_x509();
    svids.next().await.expect("W73: the stream stays open");
}

/// One message waits for a slow reader, in addition to the messages that were already sent.
#[tokio::test]
async fn a_consumer_that_does_not_read_costs_one_message_w072() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let mut wire = Wire::connect(&agent).await;
    let mut slow = wire.call("FetchX509SVID", &[]).await.unwrap();
    let mut quick = agent.x509_stream().await;
    quick.next().await;
    for _ in 0..50 {
        agent.rotate_x509();
        quick.next().await;
    }
    let latest = agent.x509_stream().await.next().await;
    let mut messages = 1;
    while <dev_agent::pb::X509svidResponse as prost::Message>::decode(
        &slow.next().await.unwrap()[..],
    )
    .unwrap()
        != latest
    {
        messages += 1;
    }
    assert!(messages <= 5, "{messages} messages had been kept");
}

/// A connection that reads and writes single frames (RFC 9113 §4.1).
pub(crate) struct Raw<S = UnixStream>(S);

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

impl Raw {
    pub(crate) async fn connect(agent: &TestAgent) -> Self {
        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    pub(crate) async fn write(&mut self, frames: &[u8]) {
        self.0.write_all(frames).await.unwrap();
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// Reads up to the first frame of one of these kinds. Returns `None` if the connection ends
    /// before.
    pub(crate) async fn read(&mut self, kinds: &[u8]) -> Option<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            soon(self.0.read_exact(&mut head)).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            soon(self.0.read_exact(&mut payload)).await.ok()?;
            if kinds.contains(&head[3]) {
                return Some((head[3], payload));
            }
        }
    }
}

impl Raw {
    /// Writes `count` times, or until the agent closes the connection. Then reads its verdict.
    async fn flood(self, count: u32, frames: impl Fn(u32) -> Vec<u8>) -> Option<u8> {
        let (read, mut write) = self.0.into_split();
        let write = async {
            for index in 0..count {
                if write.write_all(&frames(index)).await.is_err() {
                    return;
                }
            }
            // The agent may have closed the connection already.
            let _ = write.write_all(&frame(PING, 0, 0, b"the end.")).await;
        };
        let mut read = Raw(read);
        let read = async {
            loop {
                match read.read(&[GOAWAY, PING]).await? {
                    (PING, payload) if payload != b"the end." => {}
                    (kind, _) => return Some(kind),
                }
            }
        };
        tokio::join!(write, read).1
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns literal fields without indexing (RFC 7541 §6.2.2), none longer than 126 bytes.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let field = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    fields.iter().flat_map(field).collect()
}

fn request(stream: u32, header: &str, flags: u8) -> Vec<u8> {
    let fields = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        (":authority", "localhost"),
        (header, "true"),
    ]);
    frame(HEADERS, flags, stream, &fields)
}

#[tokio::test]
async fn http2_without_tls_is_served_w003() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let mut raw = Raw::connect(&agent).await;
    let (_, settings) = raw.read(&[SETTINGS]).await.unwrap();
    let streams = [0, 3, 0, 0, 0, 100];
    assert!(
        settings.chunks(6).any(|setting| setting == streams),
        "W147: at most 100 streams of one connection"
    );
    let all = END_HEADERS | END_STREAM;
    raw.write(&request(1, "workload.spiffe.io", all)).await;
    assert!(raw.read(&[HEADERS]).await.is_some(), "W4: no credentials");
}

#[tokio::test]
async fn a_header_name_in_upper_case_is_a_protocol_error_w022() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let mut raw = Raw::connect(&agent).await;
    let all = END_HEADERS | END_STREAM;
    raw.write(&request(1, "Workload.spiffe.io", all)).await;
    let (kind, payload) = raw.read(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
    let error = payload[payload.len().min(if kind == GOAWAY { 4 } else { 0 })..][..4].to_vec();
    assert_ne!(kind, HEADERS);
    assert_eq!(error, [0, 0, 0, 1], "PROTOCOL_ERROR");
}

#[tokio::test]
async fn floods_end_a_connection_and_not_the_agent_w148() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let good = agent.x509_stream();
    let name = "workload.spiffe.io";
    let reset = |index: u32| {
        let stream = index * 2 + 1;
        let all = END_HEADERS | END_STREAM;
        let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [request(stream, name, all), cancel].concat()
    };
    let continuation = |index: u32| match index {
        0 => request(1, name, END_STREAM),
        _ => frame(
            CONTINUATION,
            0,
            1,
            &fields(&[("x", "y".repeat(120).as_str()); 8]),
        ),
    };
    let settings = |_| frame(SETTINGS, 0, 0, &[]);
    let raw = || Raw::connect(&agent);
    let pings = raw()
        .await
        .flood(10_000, |_| frame(PING, 0, 0, b"12345678"));
    assert_eq!(pings.await, Some(PING), "answered, one by one");
    let verdict = raw().await.flood(10_000, reset).await;
    assert_ne!(verdict, Some(PING), "rapid reset");
    let verdict = raw().await.flood(1000, continuation).await;
    assert_ne!(verdict, Some(PING), "headers without an end");
    let verdict = raw().await.flood(10_000, settings).await;
    assert_eq!(verdict, Some(PING), "answered, one by one");
    good.await.next().await;
}

/// The calls come in rounds, because a connection is closed on which many end before they are accepted.
#[tokio::test]
async fn cancelled_calls_leave_nothing_behind_w030() {
    const AT_ONCE: usize = 20;
    let agent = TestAgent::start(&[ENTRY]).await;
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let mut client = agent.connect().await;
    let request = crate::support::with_header(dev_agent::pb::ValidateJwtsvidRequest::default());
    client.validate_jwtsvid(request).await.unwrap_err();
    let before = alive();
    agent.stall();
    for _ in 0..10_000 / AT_ONCE {
        let mut calls = JoinSet::new();
        for _ in 0..AT_ONCE {
            let mut client = client.clone();
            calls.spawn(async move {
                let mut request = crate::support::with_header(dev_agent::pb::X509svidRequest {});
                request.set_timeout(std::time::Duration::from_millis(5));
                client.fetch_x509svid(request).await.unwrap_err()
            });
        }
        for status in calls.join_all().await {
            let cancelled = [tonic::Code::Cancelled, tonic::Code::DeadlineExceeded];
            assert!(cancelled.contains(&status.code()), "{status:?}");
        }
    }
    let gone = async {
        while alive() > before {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
    agent.unstall();
    agent.x509_stream().await.next().await;
}
