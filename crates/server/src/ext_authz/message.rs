//! One message of gRPC in each direction, which is all that a check needs.
//!
//! Each message follows a byte, which says whether it is compressed, and its length in four bytes
//! (gRPC over HTTP/2, "Requests" and "Responses").
//!
//! # Alternatives
//!
//! The crate `tonic` (0.14) has `server::Grpc`, which answers a unary call on any HTTP server. It limits the length
//! of a message and not its time. A call that is not a check gets status 200 and a gRPC status there. Here it has
//! an HTTP status and a `reason`, as every request that is refused. A check is one message in each direction, which
//! is some forty lines.

use std::{future::ready, time::Duration};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use prost::Message;
use serve::{Received, body::Body};
use tokio::time::timeout;

/// The longest message. The fields of a request have at most 64 KiB in most gateways. The body of a
/// request is not needed, and a gateway sends it only if it is told to.
const MAX: usize = 1 << 20;

/// The longest time for a message, which a gateway sends at once.
const LONGEST: Duration = Duration::from_secs(10);

/// The flag and the length before a message.
const PREFIX: usize = 5;

/// Reads the one message of a call.
///
/// # Errors
/// Fails with the status of the answer when there is not exactly one message of that type.
pub(super) async fn read<M: Message + Default>(body: Received) -> Result<M, StatusCode> {
    let reading = Limited::new(body, MAX + PREFIX).collect();
    let collected = timeout(LONGEST, reading)
        .await
        .map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
    let bytes = collected.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        }
    })?;
    decode(&bytes.to_bytes())
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, StatusCode> {
    let (flag, rest) = bytes.split_first().ok_or(StatusCode::BAD_REQUEST)?;
    let (length, message) = rest
        .split_first_chunk::<4>()
        .ok_or(StatusCode::BAD_REQUEST)?;
    let is_whole = u32::from_be_bytes(*length) as usize == message.len();
    if *flag != 0 || !is_whole {
        return Err(StatusCode::BAD_REQUEST);
    }
    M::decode(message).map_err(|_| StatusCode::BAD_REQUEST)
}

/// Returns the answer with this message, and the status of success after it.
pub(super) fn answer(message: &impl Message) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Full::new(encode(message)).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::streamed(message));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

fn encode(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

#[cfg(test)]
mod tests {
    use super::{super::pb::Field, *};

    #[test]
    fn a_message_is_read_as_it_was_written_and_only_if_it_is_whole_u018() {
        let field = Field {
            key: "a".into(),
            value: "b".into(),
        };
        let bytes = encode(&field);
        assert_eq!(&bytes[..PREFIX], [0, 0, 0, 0, 6]);
        assert_eq!(decode::<Field>(&bytes), Ok(field));
        assert_eq!(decode::<Field>(&[0; PREFIX]), Ok(Field::default()));
        let longer = [&bytes[..], b"x"].concat();
        let compressed = [&[1], &bytes[1..]].concat();
        let no_message = [0, 0, 0, 0, 2, 0x0a, 0xff];
        for bytes in [
            &[] as &[u8],
            &bytes[..PREFIX - 1],
            &bytes[..bytes.len() - 1],
            &longer,
            &compressed,
            &no_message,
            &[0, 0xff, 0xff, 0xff, 0xff],
        ] {
            let decoded = decode::<Field>(bytes);
            assert_eq!(decoded, Err(StatusCode::BAD_REQUEST), "{bytes:?}");
        }
    }
}
