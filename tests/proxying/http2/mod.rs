//! Sends HTTP/2 frames that no client library would send. The tests of this directory share this
//! module.

/// Sends fields and pseudo-fields, and checks the outcome.
mod heads;
/// Sends streams with bodies and trailers, resets them, and sends HEAD.
mod streams;

use harness::{
    PATIENCE,
    frames::{self, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, frame},
    https::Https,
};

use crate::Proxied;

/// Holds a connection with one stream, number 1.
struct Client(Frames);

/// The outcome of the stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It was answered with one of the statuses that HPACK has an index for.
    Status(u16),
    /// It was answered with another status.
    OtherStatus,
    /// The stream or the connection was ended.
    Refused,
}

impl Client {
    async fn new(https: &Https) -> Self {
        Self(Frames::connect(https, b"").await)
    }

    async fn headers(&mut self, flags: u8, fields: &[(&str, &str)]) {
        let mut bytes = frames::request(1, b"", fields);
        bytes[4] = flags;
        self.0.send(&bytes).await;
    }

    async fn data(&mut self, flags: u8, data: &[u8]) {
        self.0.send(&frame(DATA, flags, 1, data)).await;
    }

    async fn outcome(&mut self) -> Outcome {
        let outcome = async {
            while let Some(frame) = self.0.next().await {
                match frame.kind {
                    RST_STREAM | GOAWAY => break,
                    HEADERS => return status(&frame.payload),
                    _ => {}
                }
            }
            Outcome::Refused
        };
        let outcome = tokio::time::timeout(PATIENCE, outcome).await;
        outcome.expect("answers in time")
    }
}

/// Reads the status, which is the first field. Usual statuses are one octet (RFC 7541 §6.1 and
/// appendix A).
fn status(block: &[u8]) -> Outcome {
    const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let block = match block {
        [update, rest @ ..] if update & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block.first() {
        Some(octet @ 0x88..=0x8e) => Outcome::Status(STATUSES[usize::from(octet - 0x88)]),
        _ => Outcome::OtherStatus,
    }
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const AUTHORITY: (&str, &str) = (":authority", "a");
const PATH: (&str, &str) = (":path", "/");
const GET: [(&str, &str); 4] = [METHOD, SCHEME, AUTHORITY, PATH];

async fn sent(proxied: &Proxied, fields: &[(&str, &str)]) -> Outcome {
    let mut client = Client::new(&proxied.https).await;
    client.headers(END_HEADERS | END_STREAM, fields).await;
    client.outcome().await
}
