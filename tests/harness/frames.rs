//! Speaks HTTP/2 (RFC 9113) frame by frame, so that a test can send what no client library sends.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    time::timeout,
};

use crate::{
    PATIENCE,
    https::{Https, Stream},
};

/// Frame types (RFC 9113 §6).
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const PRIORITY: u8 = 2;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

/// Flags (RFC 9113 §6).
pub const END_STREAM: u8 = 1;
/// See [`END_STREAM`].
pub const END_HEADERS: u8 = 4;

/// This flag acknowledges SETTINGS or PING.
pub const ACK: u8 = 1;

/// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0;
/// See [`NO_ERROR`].
pub const INTERNAL_ERROR: u32 = 2;
/// See [`NO_ERROR`].
pub const CANCEL: u32 = 8;
/// See [`NO_ERROR`].
pub const REFUSED_STREAM: u32 = 7;
/// See [`NO_ERROR`].
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET https://localhost/` in HPACK, without the dynamic table.
pub const GET: &[u8] = b"\x82\x87\x84\x01\x09localhost";
/// `POST https://localhost/` in HPACK, without the dynamic table.
pub const POST: &[u8] = b"\x83\x87\x84\x01\x09localhost";

/// Holds a connection over which the preface and SETTINGS were sent.
pub struct Frames {
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
}

/// Counts all frames that came until the end of the connection.
#[derive(Debug, Default)]
pub struct Ended {
    /// The number of frames of each type.
    pub frames: BTreeMap<u8, usize>,
    /// The error code of the last GOAWAY.
    pub goaway: Option<u32>,
    /// The number of resets with each error code.
    pub resets: BTreeMap<u32, usize>,
}

/// One frame.
#[derive(Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Returns the bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Returns [`GET`] or [`POST`] with the scheme that `https` has.
pub fn block(https: &Https, block: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    if https.scheme() == "http" {
        // The static table has `:scheme: http` at index 6 (RFC 7541 Appendix A).
        block[1] = 0x86;
    }
    block
}

/// Returns a request without a body on `stream`, with more fields after those of `block`.
pub fn request(stream: u32, block: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let block = [block, &literal(fields)].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// Returns the head of a request on `stream` whose body is to come, with more fields after those of
/// `block`.
pub fn upload(stream: u32, block: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let block = [block, &literal(fields)].concat();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Takes one whole frame off the front of `buffer`.
pub(crate) fn split_frame(buffer: &mut Vec<u8>) -> Option<Frame> {
    let [a, b, c, kind, flags, stream @ ..] = *buffer.first_chunk::<9>()?;
    let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
    let payload = buffer.get(9..end)?.to_vec();
    buffer.drain(..end);
    Some(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(stream),
        payload,
    })
}

/// Returns the head of an answer, in HEADERS and CONTINUATION frames. `flags` may end the stream.
pub fn head(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    const MAX_FRAME: usize = 16 * 1024;
    let block = literal(fields);
    let parts: Vec<_> = block.chunks(MAX_FRAME).collect();
    let frames = parts.iter().enumerate().map(|(index, part)| {
        let is_last = index + 1 == parts.len();
        let end = if is_last { END_HEADERS } else { 0 };
        match index {
            0 => frame(HEADERS, flags | end, stream, part),
            _ => frame(CONTINUATION, end, stream, part),
        }
    });
    frames.collect::<Vec<_>>().concat()
}

/// Returns a RST_STREAM frame with this error code.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// Returns a GOAWAY frame whose last stream is `last`.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
    frame(GOAWAY, 0, 0, &payload)
}

/// Encodes each field in HPACK as a literal without indexing (RFC 7541 §6.2.2).
fn literal(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Writes an HPACK integer with a prefix of 7 bits (RFC 7541 §5.1).
fn push_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

impl Frames {
    /// Connects and sends the preface with these SETTINGS.
    pub async fn connect(https: &Https, settings: &[u8]) -> Self {
        let (read, mut write) = split(https.open(b"h2").await.unwrap());
        write
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let settings = frame(SETTINGS, 0, 0, settings);
        write.write_all(&settings).await.unwrap();
        write.flush().await.unwrap();
        Self { read, write }
    }

    /// Sends bytes and returns whether all were taken.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.write.write_all(bytes).await;
        sent.is_ok() && self.write.flush().await.is_ok()
    }

    /// Reads the next frame, or `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        next(&mut self.read).await
    }

    /// Returns the next frame of this type on this stream and drops those before it.
    pub async fn until(&mut self, kind: u8, stream: u32) -> Frame {
        let reading = async {
            loop {
                let frame = self.next().await.expect("is there before the end");
                if frame.kind == kind && frame.stream == stream {
                    return frame;
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("comes in time")
    }

    /// Sends a PING. Returns the frames that came before its acknowledgement, or `None` if the connection ended.
    pub async fn ping(&mut self) -> Option<Vec<Frame>> {
        self.send(&frame(PING, 0, 0, &[7; 8])).await;
        let reading = async {
            let mut before = Vec::new();
            loop {
                let frame = self.next().await?;
                if frame.kind == PING && frame.flags == ACK {
                    return Some(before);
                }
                before.push(frame);
            }
        };
        timeout(PATIENCE, reading).await.expect("comes in time")
    }

    /// Sends bytes while it reads, then reads until the connection's end.
    pub async fn flood(mut self, bytes: &[u8]) -> Ended {
        let mut write = self.write;
        let sending = async {
            // A flood may have its connection closed early.
            let _ = write.write_all(bytes).await;
            let _ = write.flush().await;
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut ended = Ended::default();
            while let Some(frame) = next(&mut self.read).await {
                ended.note(&frame);
            }
            ended
        };
        let flooding = async {
            tokio::select! {
                ended = reading => ended,
                () = sending => unreachable!("pending"),
            }
        };
        timeout(PATIENCE, flooding).await.expect("ends in time")
    }

    /// Sends bytes without reading, and returns whether all were taken within `patience`.
    pub async fn send_without_reading(&mut self, bytes: &[u8], patience: Duration) -> bool {
        timeout(patience, self.send(bytes)).await == Ok(true)
    }
}

impl Ended {
    fn note(&mut self, frame: &Frame) {
        *self.frames.entry(frame.kind).or_default() += 1;
        match frame.kind {
            GOAWAY => self.goaway = Some(code(&frame.payload[4..])),
            RST_STREAM => *self.resets.entry(code(&frame.payload)).or_default() += 1,
            _ => {}
        }
    }
}

async fn next(read: &mut ReadHalf<Box<dyn Stream>>) -> Option<Frame> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    read.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind,
        flags,
        stream: u32::from_be_bytes(stream),
        payload,
    })
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
