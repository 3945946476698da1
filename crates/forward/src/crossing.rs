//! The rules for fields that headers and trailers share: their names, their size and their form. The
//! module does no I/O.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        self, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE, TRAILER,
        TRANSFER_ENCODING, VIA,
    },
};

/// Fields for one connection only, nominated by `Connection` or not. This hop meets `Expect` itself,
/// because it asks for the body when the upstream takes it. It sends a `TE` and a `Trailer` of its
/// own.
pub(super) static HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    EXPECT,
];

/// Fields that a caller can't have removed by nominating them in `Connection`: credentials, fields that
/// frame the message, and fields that are set here.
pub(super) static NOT_NOMINABLE: [HeaderName; 6] = [
    AUTHORIZATION,
    CONTENT_LENGTH,
    HOST,
    VIA,
    header::CACHE_CONTROL,
    COOKIE,
];

/// Fields by which callers claim an origin, an identity or another target. Some frameworks take that
/// target in place of a path that is not forwarded.
const CLAIMS: [&str; 9] = [
    "forwarded",
    "proxy",
    "remote-user",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
];
/// Fields about a SPIFFE ID, which are believed only where this product sets them. They cross in neither
/// direction.
pub(super) const IDENTITY_PREFIX: &str = "x-spiffe-";
const CLAIM_PREFIXES: [&str; 8] = [
    "client-cert",
    "ssl-client-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    IDENTITY_PREFIX,
    "x-ssl-client-",
];

/// The longest head of an answer that crosses, in bytes as HTTP/1.1 writes them, and the most fields.
/// Both hold for both versions of HTTP.
pub(super) const MAX_ANSWER_HEAD_BYTES: usize = 64 * 1024;
pub(super) const MAX_ANSWER_FIELDS: usize = 256;

/// Returns whether a name has an underscore. Some servers read `X_Forwarded_For` as `X-Forwarded-For`, so that
/// no such name crosses in a request.
pub(super) fn has_underscore(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

/// Returns whether a field of this name, which has no underscore, claims something.
pub(super) fn claims(name: &str) -> bool {
    CLAIMS.contains(&name) || CLAIM_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Removes white space around values.
pub(super) fn trim_values(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let trimmed = value.as_bytes().trim_ascii();
        if trimmed.len() < value.len() {
            *value = HeaderValue::from_bytes(trimmed).expect("part of a value is a value");
        }
    }
}
