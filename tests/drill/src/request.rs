//! The requests of the load. Half of them are GETs, and half are POSTs with bodies of 0 to 100 KiB,
//! either with a Content-Length or chunked. A caller sends the same sequence in each drill.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::Result;
use http::{Request, header};
use hyper::body::{Body, Bytes, Frame, SizeHint};

use crate::tally::Kind;

/// The largest body.
const LARGEST: usize = 100 << 10;
/// All bodies are slices of this one.
static CONTENT: [u8; LARGEST] = [b'x'; LARGEST];
/// The smallest and the largest piece of a body.
const PIECES: (usize, usize) = (1 << 10, 16 << 10);

/// One request without its token, so that it can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Get,
    Post {
        size: usize,
        piece: usize,
        framing: Framing,
    },
}

/// The framing of a body, which decides how its length is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    ContentLength,
    Chunked,
}

/// The body of a request, in pieces that are sent one by one.
#[derive(Debug)]
pub(crate) struct Payload {
    left: Bytes,
    piece: usize,
    framing: Framing,
    /// The next piece may be sent.
    is_due: bool,
}

/// The sequence of one caller.
#[derive(Debug)]
pub(crate) struct Sequence(u64);

impl Sequence {
    /// Starts the sequence of the caller with this number.
    pub(crate) fn of(caller: u64) -> Self {
        Self(caller)
    }

    /// Returns a number by SplitMix64.
    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number of at most `most`.
    fn up_to(&mut self, most: usize) -> usize {
        (self.random() % (most as u64 + 1)) as usize
    }

    fn flip(&mut self) -> bool {
        self.up_to(1) == 0
    }

    /// Returns a size below 100, 25, 6.25 or 1.5 KiB, or 0, so that small bodies are frequent too.
    fn size(&mut self) -> usize {
        match self.up_to(4) {
            4 => 0,
            quarters => self.up_to(LARGEST >> (2 * quarters)),
        }
    }
}

impl Iterator for Sequence {
    type Item = Shape;

    /// Returns the next request. The sequence never ends.
    fn next(&mut self) -> Option<Shape> {
        if self.flip() {
            return Some(Shape::Get);
        }
        let (smallest, largest) = PIECES;
        Some(Shape::Post {
            size: self.size(),
            piece: smallest + self.up_to(largest - smallest),
            framing: if self.flip() {
                Framing::Chunked
            } else {
                Framing::ContentLength
            },
        })
    }
}

impl Shape {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Get => Kind::Get,
            Self::Post { .. } => Kind::Post,
        }
    }

    /// Makes the request.
    pub(crate) fn request(self, token: &str) -> Result<Request<Payload>> {
        let request = Request::builder()
            .uri("/")
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        let (request, size, piece, framing) = match self {
            Self::Get => (request, 0, LARGEST, Framing::ContentLength),
            Self::Post {
                size,
                piece,
                framing,
            } => {
                let request = request.method("POST");
                let request = match framing {
                    Framing::ContentLength => request.header(header::CONTENT_LENGTH, size),
                    Framing::Chunked => request,
                };
                (request, size, piece, framing)
            }
        };
        let left = Bytes::from_static(&CONTENT[..size]);
        Ok(request.body(Payload {
            left,
            piece,
            framing,
            is_due: true,
        })?)
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if !self.is_due {
            // hyper sends the piece before this one now. Otherwise it would collect several.
            self.is_due = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.is_due = false;
        let length = self.piece.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(length)))))
    }

    /// Returns false for an empty chunked body, because its last chunk is still to be sent.
    fn is_end_stream(&self) -> bool {
        self.framing == Framing::ContentLength && self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::ContentLength => SizeHint::with_exact(self.left.len() as u64),
            Framing::Chunked => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const MANY: usize = 10_000;

    #[test]
    fn half_are_posts_of_all_sizes_in_both_framings() {
        let shapes: Vec<_> = Sequence::of(7).take(MANY).collect();
        let posts = shapes.iter().filter(|shape| shape.kind() == Kind::Post);
        assert!((4_800..5_200).contains(&posts.count()));
        for wanted in [Framing::ContentLength, Framing::Chunked] {
            let sizes = shapes.iter().filter_map(|shape| match shape {
                Shape::Post { size, framing, .. } if *framing == wanted => Some(*size),
                _ => None,
            });
            let sizes: Vec<_> = sizes.collect();
            assert!(sizes.len() > 2_000);
            assert!(sizes.iter().filter(|size| **size == 0).count() > 300);
            assert!(
                sizes
                    .iter()
                    .filter(|size| (1..2_048).contains(*size))
                    .count()
                    > 300
            );
            assert!(sizes.iter().any(|size| *size > 99 << 10));
            assert!(sizes.iter().all(|size| *size <= LARGEST));
        }
    }

    #[test]
    fn a_caller_repeats_its_sequence_and_no_other_callers() {
        let first = |caller| Sequence::of(caller).take(100).collect::<Vec<_>>();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[tokio::test]
    async fn a_body_has_its_size_in_either_framing() {
        for framing in [Framing::ContentLength, Framing::Chunked] {
            for size in [0, 1, 1_024, 1_025, LARGEST] {
                let shape = Shape::Post {
                    size,
                    piece: 1_024,
                    framing,
                };
                let request = shape.request("token").unwrap();
                let is_told = framing == Framing::ContentLength;
                let told = request.headers().contains_key(header::CONTENT_LENGTH);
                assert_eq!(told, is_told);
                let body = request.into_body();
                assert_eq!(body.size_hint().exact().is_some(), is_told);
                assert_eq!(body.collect().await.unwrap().to_bytes().len(), size);
            }
        }
    }
}
