//! The `:authority` of requests, which clients of a Unix socket fill in differently.
//!
//! gRPC libraries send a host name, the socket's path, or the path percent-encoded. The Workload API
//! gives it no meaning, and a SPIRE agent ignores it. hyper resets a request whose `:authority` is not
//! one of RFC 3986, so that [`Requests`] replaces each before hyper reads it.
//!
//! No library does this. h2, which reads HTTP/2 for hyper, has no setting without that check, and
//! exports no HPACK. Crates that offer HPACK, such as `fluke-hpack`, decode each field and encode it
//! again. This module copies fields as they were sent, so that hyper still verifies them, and needs
//! only their lengths for the client's table.

mod block;
mod literal;
mod table;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use self::block::{Blocks, MAX_BLOCK};

const FRAME_HEADER: usize = 9;
/// The largest payload, because the agent announces no other (RFC 9113 §4.2).
const MAX_PAYLOAD: usize = 16 << 10;
const READ_SIZE: usize = 8 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Reads the frames of a client (RFC 9113 §4), and replaces the `:authority` of its requests.
pub(crate) struct Requests<R> {
    inner: R,
    /// The bytes that were read and are not parsed yet.
    input: Vec<u8>,
    /// The bytes for hyper, from `sent` on.
    output: Vec<u8>,
    sent: usize,
    /// The rest of a payload that is passed on as it is.
    passed: usize,
    head: Option<Head>,
    blocks: Blocks,
}

/// A request's head, of which CONTINUATION frames are missing.
struct Head {
    stream: [u8; 4],
    end_stream: u8,
    block: Vec<u8>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    length: usize,
}

impl<R> Requests<R> {
    /// Returns a reader of the frames after the preface.
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            passed: 0,
            head: None,
            blocks: Blocks::default(),
        }
    }

    /// Moves what can be parsed from `input` to `output`.
    fn parse(&mut self) -> io::Result<()> {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        loop {
            let passed = self.passed.min(rest.len());
            self.output.extend(&rest[..passed]);
            self.passed -= passed;
            rest = &rest[passed..];
            let Some(frame) = Frame::parse(rest) else {
                break;
            };
            if !frame.has_block() {
                if self.head.is_some() {
                    return Err(invalid("a frame within a field block"));
                }
                self.passed = FRAME_HEADER + frame.length;
                continue;
            }
            let Some(payload) = rest.get(FRAME_HEADER..FRAME_HEADER + frame.length) else {
                break;
            };
            self.add(&frame, payload)?;
            rest = &rest[FRAME_HEADER + frame.length..];
        }
        self.input.extend(rest);
        Ok(())
    }

    /// Adds the payload of a HEADERS or CONTINUATION frame to the head, which it may complete.
    fn add(&mut self, frame: &Frame, payload: &[u8]) -> io::Result<()> {
        let mut head = match (frame.kind, self.head.take()) {
            (HEADERS, None) => Head {
                stream: frame.stream,
                end_stream: frame.flags & END_STREAM,
                block: fragment(frame.flags, payload)?.to_vec(),
            },
            (CONTINUATION, Some(mut head)) if head.stream == frame.stream => {
                head.block.extend(payload);
                head
            }
            _ => return Err(invalid("a field block that is out of order")),
        };
        if head.block.len() > MAX_BLOCK {
            return Err(invalid("a field block that is too long"));
        }
        if frame.flags & END_HEADERS == 0 {
            self.head = Some(head);
            return Ok(());
        }
        head.block = self.blocks.rewrite(&head.block).map_err(invalid)?;
        self.output.extend(head.frames());
        Ok(())
    }
}

impl Head {
    /// Returns the frames of the head.
    fn frames(&self) -> Vec<u8> {
        let mut frames = Vec::with_capacity(self.block.len() + FRAME_HEADER);
        let mut chunks = self.block.chunks(MAX_PAYLOAD).peekable();
        let (mut kind, mut flags) = (HEADERS, self.end_stream);
        loop {
            let chunk = chunks.next().unwrap_or_default();
            if chunks.peek().is_none() {
                flags |= END_HEADERS;
            }
            let [_, length @ ..] = (chunk.len() as u32).to_be_bytes();
            frames.extend(length);
            frames.extend([kind, flags]);
            frames.extend(self.stream);
            frames.extend(chunk);
            if flags & END_HEADERS != 0 {
                return frames;
            }
            (kind, flags) = (CONTINUATION, 0);
        }
    }
}

impl Frame {
    /// Returns the frame whose header is at the front of `bytes`.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<FRAME_HEADER>()?;
        Some(Self {
            kind,
            flags,
            stream,
            length: u32::from_be_bytes([0, a, b, c]) as usize,
        })
    }

    /// Returns whether the payload is a part of a field block. hyper refuses one that is too long.
    fn has_block(&self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION) && self.length <= MAX_PAYLOAD
    }
}

/// Returns the part of a HEADERS payload that is a field block (RFC 9113 §6.2).
fn fragment(flags: u8, mut payload: &[u8]) -> io::Result<&[u8]> {
    let too_short = || invalid("a HEADERS frame that is too short");
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first().ok_or_else(too_short)?;
        let length = rest.len().checked_sub(usize::from(*padding));
        payload = &rest[..length.ok_or_else(too_short)?];
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..).ok_or_else(too_short)?;
    }
    Ok(payload)
}

fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("HTTP/2: {what}"))
}

impl<R: AsyncRead + Unpin> AsyncRead for Requests<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.sent == this.output.len() {
            this.output.clear();
            this.sent = 0;
            let mut chunk = [0; READ_SIZE];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.input.extend(read.filled());
            this.parse()?;
        }
        let ready = &this.output[this.sent..];
        let count = ready.len().min(buffer.remaining());
        buffer.put_slice(&ready[..count]);
        this.sent += count;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Reads `bytes` to the end, in pieces of `step` bytes at most.
    async fn read(bytes: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let (mut client, agent) = tokio::io::duplex(step);
        let write = async move {
            // It fails if the reader has failed.
            let _ = client.write_all(bytes).await;
        };
        let read = async move {
            let mut read = Vec::new();
            Requests::new(agent).read_to_end(&mut read).await?;
            Ok(read)
        };
        tokio::join!(write, read).1
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    const PATH: &[u8] = b"\x83\x41\x0f/tmp/agent.sock\x86";
    const LOCALHOST: &[u8] = b"\x83\x01\x09localhost\x86";

    #[tokio::test]
    async fn other_frames_pass_and_heads_become_localhosts_t001() {
        let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
        let data = frame(0, END_STREAM, &[7; 20_000]);
        let padded = [&[3, 0, 0, 0, 0, 9][..], PATH, &[0; 3]].concat();
        let heads = [
            frame(HEADERS, END_HEADERS, PATH),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded),
            [
                frame(HEADERS, END_STREAM, &PATH[..5]),
                frame(CONTINUATION, END_HEADERS, &PATH[5..]),
            ]
            .concat(),
        ];
        for (head, flags) in heads.iter().zip([0, 0, END_STREAM]) {
            let sent = [&settings[..], head, &data].concat();
            let expected = frame(HEADERS, END_HEADERS | flags, LOCALHOST);
            let expected = [&settings[..], &expected, &data].concat();
            for step in [1, 7, 64, 100_000] {
                assert_eq!(read(&sent, step).await.unwrap(), expected, "{step}");
            }
        }
    }

    #[tokio::test]
    async fn a_malformed_head_ends_the_connection_w148() {
        for (what, sent) in [
            ("no block", frame(CONTINUATION, END_HEADERS, PATH)),
            ("padding", frame(HEADERS, END_HEADERS | PADDED, &[9, 0])),
            ("priority", frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4])),
            ("empty with padding", frame(HEADERS, PADDED, &[])),
            ("index 62", frame(HEADERS, END_HEADERS, &[0xbe])),
            (
                "between",
                [frame(HEADERS, 0, PATH), frame(4, 0, &[])].concat(),
            ),
            ("endless", {
                let more = frame(CONTINUATION, 0, &[0x86; MAX_PAYLOAD]);
                [frame(HEADERS, 0, PATH), more.repeat(5)].concat()
            }),
        ] {
            let error = read(&sent, 100).await.expect_err(what);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}");
        }
    }

    #[tokio::test]
    async fn a_long_head_is_sent_in_several_frames_t001() {
        let value = [&[0, 1, b'a', 0x7f, 0xa1, 0x9b, 1][..], &[b'x'; 20_000]].concat();
        let sent = [
            frame(HEADERS, 0, &[0x83, 0x86]),
            frame(CONTINUATION, 0, &value[..10_000]),
            frame(CONTINUATION, END_HEADERS, &value[10_000..]),
        ];
        let read = read(&sent.concat(), 4096).await.unwrap();
        let block = [&[0x83, 0x86][..], &value].concat();
        let expected = [
            frame(HEADERS, 0, &block[..MAX_PAYLOAD]),
            frame(CONTINUATION, END_HEADERS, &block[MAX_PAYLOAD..]),
        ];
        assert!(read == expected.concat());
    }
}
