//! The header fields that cross the proxy, and those that it sets itself. The module does no I/O.
//!
//! Hop-by-hop fields are for one connection and end here (RFC 9110 §7.6.1). Fields that name the caller
//! come from the connection, never from the caller (RFC 7239 §8.1).

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, GetAll, HOST, MAX_FORWARDS, TE,
        TRAILER, TRANSFER_ENCODING,
    },
};
use http_body::Body;
use serve::{
    MAX_HEADERS,
    fields::{self, members},
    peer::Peer,
};

use super::{
    crossing::{
        HOP_BY_HOP, IDENTITY_PREFIX, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD_BYTES, NOT_NOMINABLE,
        claims, has_underscore, trim_values,
    },
    framing,
    rejection::Rejection,
    target,
    trailers::{self, Nominated, TrailerRules},
    via,
};

/// A static value is checked once, and not for each message.
static HTTPS: HeaderValue = HeaderValue::from_static("https");

/// The policy of a deployment for the fields of a request.
#[derive(Clone, Debug, Default)]
pub struct FieldPolicy {
    /// The caller's `Host` is kept. Otherwise the upstream's own replaces it.
    pub keeps_host: bool,
    /// Further fields that do not cross.
    pub removed: Arc<[HeaderName]>,
    /// No `X-Forwarded-*` are added, because the caller is the application of this process's own
    /// workload.
    pub hides_caller: bool,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Checks the fields that must not be doubled, and those that ask for something this hop can't do.
pub(super) fn check_request<B>(request: &Request<B>) -> Result<(), Rejection> {
    let headers = request.headers();
    check_names(headers).map_err(Rejection::Malformed)?;
    if headers.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(Rejection::Malformed("more than one Authorization"));
    }
    // HTTP/1.0 has no expectations (RFC 9110 §10.1.1).
    let unmet = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if request.version() != Version::HTTP_10 && headers.get_all(EXPECT).iter().any(unmet) {
        return Err(Rejection::Expectation);
    }
    if via::is_loop(headers) {
        return Err(Rejection::Loop);
    }
    if *request.method() == Method::OPTIONS && hops_left(headers) == Some(0) {
        return Err(Rejection::OwnHop);
    }
    Ok(())
}

/// Checks that names are tokens (RFC 9110 §5.6.2). h2 accepts `"` in a name, which HTTP/1.1 cannot write.
pub(super) fn check_names(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.keys().any(|name| name.as_str().contains('"')) {
        Err("a field name that is not a token")
    } else {
        Ok(())
    }
}

/// Checks that an answer's head is within its bounds.
pub(super) fn check_response_size(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.len() > MAX_ANSWER_FIELDS || fields::bytes(headers) > MAX_ANSWER_HEAD_BYTES {
        Err("its answer has a head of more than 64 KiB or 256 fields")
    } else {
        Ok(())
    }
}

/// Makes a caller's request fit to be sent upstream. Returns the rules for the trailers.
pub(super) fn clean_request<B: Body>(
    request: &mut Request<B>,
    peer: &Peer,
    policy: &FieldPolicy,
) -> TrailerRules {
    let host = target::requested_host(request);
    let (version, is_chunked) = (request.version(), is_to_be_chunked(request));
    let hops_left = match *request.method() {
        Method::OPTIONS => hops_left(request.headers()),
        _ => None,
    };
    // Clients act on extensions, so that h2 would send the `:protocol` of the caller's CONNECT again.
    request.extensions_mut().clear();

    let headers = request.headers_mut();
    let takes_trailers = trailers::are_taken(headers);
    let (rules, announced) = remove_uncrossing(headers, policy);
    normalize(headers);
    if let Some(hops_left) = hops_left {
        headers.insert(MAX_FORWARDS, hops_left.saturating_sub(1).into());
    }
    if policy.keeps_host
        && let Some(host) = &host
    {
        headers.insert(HOST, host.clone());
    }
    if !policy.hides_caller {
        name_caller(headers, peer, host);
    }
    via::append(headers, version);
    if is_chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if takes_trailers {
        take_trailers(headers);
    }
    if let Some(announced) = announced {
        headers.insert(TRAILER, announced);
    }
    rules
}

/// Removes the fields of a request that do not cross. Returns the rules for the trailers, and the `Trailer` that
/// announces those that cross.
fn remove_uncrossing(
    headers: &mut HeaderMap,
    policy: &FieldPolicy,
) -> (TrailerRules, Option<HeaderValue>) {
    let nominated = remove_nominated(headers);
    let rules = TrailerRules::of_request(nominated, Arc::clone(&policy.removed));
    let announced = rules.announced(headers);
    fields::remove(headers, |name| {
        HOP_BY_HOP.contains(name)
            || claims(name.as_str())
            || has_underscore(name)
            || name == HOST
            || policy.removed.contains(name)
    });
    (rules, announced)
}

/// Tells the upstream that this hop takes trailers.
fn take_trailers(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // A connection that is not HTTP/1.1 removes it again.
    headers.insert(CONNECTION, HeaderValue::from_static("te"));
}

/// Sets the fields that name the caller of a connection, and the host that it requested.
fn name_caller(headers: &mut HeaderMap, peer: &Peer, host: Option<HeaderValue>) {
    headers.insert(X_FORWARDED_FOR, peer.ip().clone());
    headers.insert(X_FORWARDED_PROTO, HTTPS.clone());
    headers.extend(host.map(|host| (X_FORWARDED_HOST, host)));
}

/// Makes an upstream's response fit to be sent to a caller that takes trailers or not. Returns the rules
/// for the trailers.
pub(super) fn clean_response<B>(response: &mut Response<B>, takes_trailers: bool) -> TrailerRules {
    let version = response.version();
    let headers = response.headers_mut();
    let rules = TrailerRules::of_answer(remove_nominated(headers), takes_trailers);
    let announced = rules.announced(headers);
    fields::remove(headers, |name| {
        HOP_BY_HOP.contains(name) || name.as_str().starts_with(IDENTITY_PREFIX)
    });
    normalize(headers);
    if let Some(announced) = announced {
        headers.insert(TRAILER, announced);
    }
    via::append(headers, version);
    // A reason phrase is the upstream's free text; the caller gets the standard one.
    response.extensions_mut().clear();
    rules
}

/// Returns whether the caller takes trailers after an answer to this request. HTTP/2 always has room for
/// them, and a caller of HTTP/1.1 says so (RFC 9110 §6.5.1).
pub(super) fn takes_trailers<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 || trailers::are_taken(request.headers())
}

/// Returns whether `Transfer-Encoding` has to say that there is a body. Otherwise hyper drops the body of a GET or
/// HEAD whose length is unknown.
fn is_to_be_chunked<B: Body>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.body().is_end_stream()
        && !request.headers().contains_key(CONTENT_LENGTH)
}

/// Removes all fields that the `Connection` fields nominate, and returns their names, if they are not too
/// many.
fn remove_nominated(headers: &mut HeaderMap) -> Nominated {
    let nominated: Vec<_> = members(headers, &CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !NOT_NOMINABLE.contains(name))
        .collect();
    for name in &nominated {
        headers.remove(name);
    }
    Some(nominated).filter(|names| names.len() <= MAX_HEADERS)
}

/// Writes fields as HTTP/1.1 has them. HTTP/2 also allows spaces around values (RFC 9113 §8.2.1) and
/// cookies in several fields (§8.2.3). A length may come twice, or with leading zeros.
fn normalize(headers: &mut HeaderMap) {
    trim_values(headers);
    if headers.get_all(COOKIE).iter().count() > 1 {
        let cookies: Vec<&[u8]> = headers
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .filter(|cookie| !cookie.is_empty())
            .collect();
        let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).expect("values joined");
        headers.insert(COOKIE, joined);
    }
    if !is_written_once(headers.get_all(CONTENT_LENGTH))
        && let Ok(Some(length)) = framing::content_length(headers)
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
}

/// Returns whether there is at most one length, without leading zeros.
fn is_written_once(lengths: GetAll<'_, HeaderValue>) -> bool {
    let mut lengths = lengths.iter().map(HeaderValue::as_bytes);
    let is_plain = lengths
        .next()
        .is_none_or(|length| length == b"0" || !length.starts_with(b"0"));
    is_plain && lengths.next().is_none()
}

/// Returns the number of hops that may still forward an OPTIONS request (RFC 9110 §7.6.2).
fn hops_left(headers: &HeaderMap) -> Option<u32> {
    headers
        .get(MAX_FORWARDS)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}
