//! The end of a message: rules by which two readers can't find two ends. The module does no I/O.
//!
//! hyper frames messages by itself. Framing that it accepts and another reader could take differently
//! is rejected here (RFC 9112 §6). Fields that hyper has removed do not reach this module. If a
//! request has both `Content-Length` and `Transfer-Encoding`, hyper keeps the latter and closes the
//! connection after the answer.

use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use serve::fields::members;

use super::rejection::Rejection;

/// Checks that a request has one length, in a coding that is forwarded whole.
pub(super) fn check_request(headers: &HeaderMap) -> Result<(), Rejection> {
    let length = content_length(headers).map_err(Rejection::Malformed)?;
    let Some(coding) = Coding::of(headers) else {
        return Ok(());
    };
    if length.is_some() {
        return Err(Rejection::Malformed(BOTH));
    }
    match coding {
        Coding::Chunked => Ok(()),
        Coding::Others => Err(Rejection::TransferCoding),
        Coding::Ambiguous => Err(Rejection::Malformed(AMBIGUOUS)),
    }
}

/// Checks that an upstream's response has one length. Returns the reason if not.
pub(super) fn check_response(headers: &HeaderMap) -> Result<(), &'static str> {
    let length = content_length(headers)?;
    match Coding::of(headers) {
        None => Ok(()),
        Some(_) if length.is_some() => Err(BOTH),
        Some(Coding::Chunked) => Ok(()),
        Some(Coding::Others) => Err("a transfer coding other than chunked"),
        Some(Coding::Ambiguous) => Err(AMBIGUOUS),
    }
}

/// Returns the length that all `Content-Length` fields agree on. More lenient readers take `+5`, `5, 5`
/// or an overflow, each for another number.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let this = digits
            .and_then(|digits| digits.parse::<u64>().ok())
            .ok_or("Content-Length is not a number")?;
        if length.is_some_and(|other| other != this) {
            return Err("Content-Length fields that differ");
        }
        length = Some(this);
    }
    Ok(length)
}

const BOTH: &str = "both Content-Length and Transfer-Encoding";
const AMBIGUOUS: &str = "Transfer-Encoding does not end in one chunked";

/// The transfer coding that all `Transfer-Encoding` fields give together.
enum Coding {
    /// `chunked` and nothing else.
    Chunked,
    /// Other codings before `chunked`, which would be lost with the field.
    Others,
    /// `chunked` twice, not last or not at all, or an empty member.
    Ambiguous,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let codings: Vec<&[u8]> = members(headers, &TRANSFER_ENCODING).collect();
        let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let (last, before) = codings.split_last()?;
        let odd = |coding: &&[u8]| coding.is_empty() || is_chunked(coding);
        Some(if !is_chunked(last) || before.iter().any(odd) {
            Self::Ambiguous
        } else if before.is_empty() {
            Self::Chunked
        } else {
            Self::Others
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    const CL: &str = "content-length";
    const TE: &str = "transfer-encoding";

    #[test]
    fn a_request_without_exactly_one_length_is_rejected() {
        let malformed = Some(400);
        for (number, fields, refused) in [
            ("", &[] as &[(&'static str, &str)], None),
            ("", &[(CL, "5")], None),
            ("", &[(TE, "chunked")], None),
            ("P25", &[(CL, "6"), (TE, "chunked")], malformed),
            ("P26", &[(TE, "chunked"), (CL, "6")], malformed),
            ("P28", &[(CL, "5"), (CL, "6")], malformed),
            ("P29", &[(CL, "5"), (CL, "05")], None),
            ("P30", &[(CL, "2, 2")], malformed),
            ("P31", &[(CL, "+2")], malformed),
            ("P31", &[(CL, "-1")], malformed),
            ("P31", &[(CL, "0x2")], malformed),
            ("P31", &[(CL, "")], malformed),
            ("P31", &[(CL, "18446744073709551616")], malformed),
            ("P32", &[(CL, "00002")], None),
            ("P35", &[(TE, "xchunked")], malformed),
            ("P35", &[(TE, "chunked, gzip")], malformed),
            ("P35", &[(TE, "chunked;q=1")], malformed),
            ("P35", &[(TE, "chunked,")], malformed),
            ("P35", &[(TE, "")], malformed),
            ("P36", &[(TE, "gzip, chunked")], Some(501)),
            ("P36", &[(TE, "identity, chunked")], Some(501)),
            ("P36", &[(TE, "xx"), (TE, "chunked")], Some(501)),
            ("P37", &[(TE, "chunked, chunked")], malformed),
            ("P37", &[(TE, "chunked"), (TE, "Chunked")], malformed),
            ("P38", &[(TE, ",chunked")], malformed),
            ("P39", &[(TE, "CHUNKED")], None),
        ] {
            let checked = check_request(&headers(fields));
            let status = checked.err().map(|rejection| rejection.status().as_u16());
            assert_eq!(status, refused, "{number} {fields:?}");
        }
    }

    #[test]
    fn a_response_without_exactly_one_length_is_rejected() {
        for (number, fields, accepted) in [
            ("", &[] as &[(&'static str, &str)], true),
            ("", &[(CL, "5")], true),
            ("", &[(TE, "chunked")], true),
            ("P113", &[(CL, "3"), (TE, "chunked")], false),
            ("P115", &[(CL, "5, 5")], false),
            ("P115", &[(CL, "5"), (CL, "05")], true),
            ("P116", &[(CL, "5"), (CL, "6")], false),
            ("P117", &[(TE, "gzip, chunked")], false),
            ("P117", &[(TE, "gzip")], false),
        ] {
            let checked = check_response(&headers(fields));
            assert_eq!(checked.is_ok(), accepted, "{number} {fields:?}");
        }
    }
}
