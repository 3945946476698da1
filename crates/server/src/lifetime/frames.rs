//! The frames that one side of a WebSocket sends (RFC 6455 §5.2). No I/O.
//!
//! # Alternatives
//!
//! The crate `tungstenite` (0.30) reads frames from a stream of its own, and copies each payload. Its parser of
//! heads alone needs the whole head in one piece, and bytes come in any pieces here.
//!
//! # Measurement
//!
//! A program with both crates read masked frames in pieces of 16 KiB, in a release build. The lowest of 15 rounds
//! is the time for each frame:
//!
//! | payload | this one | `FrameSocket` | `FrameHeader::parse` of whole heads |
//! |---|---|---|---|
//! | 32 bytes | 7.2 ns | 50 ns | 11 ns |
//! | 1 KiB | 15 ns | 138 ns | 23 ns |
//! | 64 KiB | 24 ns | 8.0 µs | 25 ns |

use hyper::body::Bytes;

/// The bytes of a frame's head: two, eight of a length, and four of a mask.
const MAX_HEAD: usize = 14;

/// The opcode of a Close frame, and its first byte: the only frame of its message.
const CLOSE: u8 = 8;
const WHOLE_CLOSE: u8 = 0x80 | CLOSE;

/// The status of a Close frame that ends a connection by a policy (RFC 6455 §7.4.1).
const POLICY_VIOLATION: u16 = 1008;

/// The position of a side in its frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; MAX_HEAD],
    /// The bytes of the head that have come.
    come: usize,
    /// The bytes of the payload that are still to come, once the head is whole.
    left: Option<u64>,
    /// Set after a Close frame, which no other frame may follow.
    has_closed: bool,
}

impl Frames {
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.first_end(bytes) {
            bytes = &bytes[end..];
        }
    }

    /// Returns the last bytes of the connection: those of `next` that complete the frame that is being sent,
    /// and a Close frame with this reason. Returns `None` if `next` does not complete the frame.
    pub(super) fn last(&mut self, next: &[u8], reason: &str) -> Option<Bytes> {
        let is_between = self.come == 0;
        let rest = if is_between { 0 } else { self.first_end(next)? };
        let close = if self.has_closed {
            Vec::new()
        } else {
            close(reason)
        };
        Some([&next[..rest], &close].concat().into())
    }

    /// Follows the next bytes up to the first end of a frame. Returns their number, or `None` if the frame
    /// continues.
    fn first_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        let left = loop {
            if let Some(left) = self.left {
                break left;
            }
            self.head[self.come] = *bytes.get(at)?;
            self.come += 1;
            at += 1;
            self.left = self.payload();
        };
        let here = bytes.len() - at;
        let taken = usize::try_from(left).map_or(here, |left| left.min(here));
        let left = left - taken as u64;
        if left > 0 {
            self.left = Some(left);
            return None;
        }
        self.has_closed |= self.head[0] & 0x0f == CLOSE;
        (self.come, self.left) = (0, None);
        Some(at + taken)
    }

    /// Returns the length of the payload, if the head is whole.
    fn payload(&self) -> Option<u64> {
        let (is_masked, short) = (self.head[1] & 0x80 != 0, self.head[1] & 0x7f);
        let length = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if is_masked { 4 } else { 0 };
        if self.come < 2 + length + mask {
            return None;
        }
        let long = self.head[2..2 + length].iter();
        let long = long.fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Some(if length == 0 { short.into() } else { long })
    }
}

/// Returns a Close frame. The reason has at most 123 bytes, as the payload of such a frame has 125.
fn close(reason: &str) -> Vec<u8> {
    let payload = [&POLICY_VIOLATION.to_be_bytes(), reason.as_bytes()].concat();
    let length = u8::try_from(payload.len()).expect("a reason has at most 123 bytes");
    [&[WHOLE_CLOSE, length], &payload[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a frame without a mask.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let head = match length {
            0..126 => vec![first, length as u8],
            126..65536 => [&[first, 126], &(length as u16).to_be_bytes()[..]].concat(),
            _ => [&[first, 127], &(length as u64).to_be_bytes()[..]].concat(),
        };
        [&head, payload].concat()
    }

    const END: &[u8] = b"\x88\x06\x03\xf0over";

    #[test]
    fn a_close_frame_follows_the_frame_that_is_being_sent_u030() {
        for length in [0, 1, 125, 126, 65535, 65536] {
            let first = frame(0x82, &vec![b'a'; length]);
            let bytes = [&first[..], &frame(0x81, b"next")].concat();
            for sent in [0, 1, 2, 3, 9, first.len() - 1, first.len()] {
                if sent > first.len() {
                    continue;
                }
                let mut frames = Frames::default();
                frames.follow(&bytes[..sent]);
                let is_between = sent == 0 || sent == first.len();
                let nothing_more = frames.last(b"", "over");
                assert_eq!(nothing_more.is_some(), is_between, "{length} {sent}");
                let last = frames.last(&bytes[sent..], "over").unwrap();
                let rest = if is_between {
                    b""
                } else {
                    &bytes[sent..first.len()]
                };
                assert_eq!(last, [rest, END].concat(), "{length} {sent}");
            }
        }
    }

    #[test]
    fn frames_are_followed_in_parts_of_any_length_u030() {
        let masked = [&[0x81, 0x83, 1, 2, 3, 4][..], b"abc"].concat();
        let all = [&frame(0x02, b"ab")[..], &frame(0x89, b""), &masked].concat();
        for part in 1..all.len() {
            let mut frames = Frames::default();
            all.chunks(part).for_each(|part| frames.follow(part));
            assert_eq!(frames.last(b"more", "over").unwrap(), END, "{part}");
        }
    }

    #[test]
    fn nothing_follows_the_close_frame_of_the_application_u030() {
        let mut frames = Frames::default();
        frames.follow(&frame(0x88, b"\x03\xe8"));
        assert_eq!(frames.last(b"", "over").unwrap(), b""[..]);
        let mut frames = Frames::default();
        let close = frame(0x88, b"\x03\xe8");
        frames.follow(&close[..3]);
        assert_eq!(frames.last(&close[3..], "over").unwrap(), close[3..]);
    }

    #[test]
    fn a_frame_of_the_longest_length_does_not_end_u030() {
        let mut frames = Frames::default();
        frames.follow(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(frames.last(&[0; 1000], "over"), None);
    }
}
