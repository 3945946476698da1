//! The trailer fields that cross the proxy (RFC 9110 §6.5.1). The module does no I/O.
//!
//! Trailers are never merged into the header fields. A field is dropped if a reader might act on it as
//! on a header field, because only those were checked. Such fields are about framing, routing,
//! credentials, conditions, caches, and claims.
//!
//! hyper writes only those trailers over HTTP/1.1 that `Trailer` announces. A request's short body is
//! read before its head is sent, so that its trailers are all announced.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, TRAILER},
};
use serve::{
    MAX_HEADER_BYTES, MAX_HEADERS,
    fields::{self, members},
};

use super::crossing::{self, HOP_BY_HOP, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD_BYTES, NOT_NOMINABLE};

/// Fields that belong to the head of a message. So do hop-by-hop fields, claims, and fields that can't be
/// nominated.
static HEAD_ONLY: [HeaderName; 22] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::ALLOW,
    HeaderName::from_static("authentication-info"),
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::EXPIRES,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PRAGMA,
    header::RANGE,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::VARY,
    header::WARNING,
    header::WWW_AUTHENTICATE,
];
const HEAD_ONLY_PREFIXES: [&str; 4] = ["access-control-", "if-", "proxy-", "sec-"];

/// The rules for the trailer fields of one message.
#[derive(Debug)]
pub(super) struct TrailerRules {
    of: Side,
    /// The fields that `Connection` nominates (RFC 9110 §7.6.1).
    nominated: Nominated,
    /// The fields that the deployment removes.
    removed: Arc<[HeaderName]>,
}

/// The names that a message's `Connection` nominates, or `None` if they are more than a head may have
/// fields. No trailer crosses then, because the names are kept for as long as the body.
pub(super) type Nominated = Option<Vec<HeaderName>>;

/// The message that the trailers belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    /// An answer. Its caller takes trailers or not.
    Answer {
        is_taken: bool,
    },
}

/// The error of a message whose trailers are longer than its head might be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the trailers are too long or too many")]
pub(super) struct TooLong;

impl TrailerRules {
    /// Returns the rules for a request whose `Connection` nominates these fields. Those in `removed` do not
    /// cross either.
    pub(super) fn of_request(nominated: Nominated, removed: Arc<[HeaderName]>) -> Self {
        Self {
            of: Side::Request,
            nominated,
            removed,
        }
    }

    /// Returns the rules for an answer whose `Connection` nominates these fields. All trailers are dropped
    /// if its caller does not take them.
    pub(super) fn of_answer(nominated: Nominated, is_taken: bool) -> Self {
        Self {
            of: Side::Answer { is_taken },
            nominated,
            removed: Arc::default(),
        }
    }

    /// Returns the most bytes and fields that the trailers may have, which are those of a head.
    fn bounds(&self) -> (usize, usize) {
        match self.of {
            Side::Request => (MAX_HEADER_BYTES as usize, MAX_HEADERS),
            Side::Answer { .. } => (MAX_ANSWER_HEAD_BYTES, MAX_ANSWER_FIELDS),
        }
    }

    /// Returns the trailers that cross, or `None` if none does.
    ///
    /// # Errors
    /// Fails when the trailers exceed the bounds of a head.
    pub(super) fn cleaned(&self, trailers: HeaderMap) -> Result<Option<HeaderMap>, TooLong> {
        let (max_bytes, max_fields) = self.bounds();
        if trailers.len() > max_fields || fields::bytes(&trailers) > max_bytes {
            return Err(TooLong);
        }
        let mut trailers = trailers;
        fields::remove(&mut trailers, |name| !self.allow(name));
        crossing::trim_values(&mut trailers);
        Ok(Some(trailers).filter(|trailers| !trailers.is_empty()))
    }

    /// Returns the value of `Trailer` that announces those fields that `headers` announce and that
    /// cross. Names beyond the bound of trailers are skipped.
    pub(super) fn announced(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let (_, max_fields) = self.bounds();
        let names = members(headers, &TRAILER).take(max_fields);
        let names = names.filter_map(|name| HeaderName::from_bytes(name).ok());
        let names = names.filter(|name| self.allow(name));
        announcement(names)
    }

    /// Returns whether a field of this name crosses.
    fn allow(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        let has_underscore = crossing::has_underscore(name);
        if has_underscore && self.of == Side::Request {
            return false;
        }
        let dashed: Cow<'_, str> = if has_underscore {
            text.replace('_', "-").into()
        } else {
            text.into()
        };
        let is_one_of = |names: &[HeaderName]| names.iter().any(|one| *one == *dashed);
        self.of != Side::Answer { is_taken: false }
            && !text.contains('"')
            && self
                .nominated
                .as_ref()
                .is_some_and(|names| !names.contains(name))
            && !self.removed.contains(name)
            && !is_one_of(&HOP_BY_HOP)
            && !is_one_of(&NOT_NOMINABLE)
            && !is_one_of(&HEAD_ONLY)
            && !HEAD_ONLY_PREFIXES
                .iter()
                .any(|prefix| dashed.starts_with(prefix))
            && !crossing::claims(&dashed)
    }
}

/// Returns the value of `Trailer` that announces fields of these names, if there are any.
pub(super) fn announcement(names: impl Iterator<Item = HeaderName>) -> Option<HeaderValue> {
    let mut all: Vec<HeaderName> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    let texts: Vec<&str> = all.iter().map(HeaderName::as_str).collect();
    let value = HeaderValue::try_from(texts.join(", ")).ok();
    value.filter(|value| !value.is_empty())
}

/// Returns whether a sender with these fields takes trailers: `TE` has `trailers` (RFC 9110 §10.1.4).
pub(super) fn are_taken(headers: &HeaderMap) -> bool {
    members(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn answer() -> TrailerRules {
        TrailerRules::of_answer(Some(Vec::new()), true)
    }

    #[test]
    fn trailers_cross_without_the_fields_that_are_for_heads_p062_p126() {
        let named = |name| vec![HeaderName::from_static(name)];
        let request = TrailerRules::of_request(Some(named("x-hop")), named("x-own").into());
        for name in [
            "authorization",
            "cookie",
            "set-cookie",
            "content-length",
            "transfer-encoding",
            "host",
            "content-type",
            "te",
            "trailer",
            "connection",
            "upgrade",
            "expect",
            "if-match",
            "range",
            "cache-control",
            "max-forwards",
            "x-forwarded-for",
            "x-spiffe-id",
            "forwarded",
            "via",
            "x-original-url",
            "www-authenticate",
            "proxy-authorization",
            "location",
            "x-hop",
            "x-own",
            "sec-websocket-key",
            "access-control-allow-origin",
            "x_forwarded_for",
            "x_spiffe_id",
        ] {
            let trailers = map(&[(name, "1"), ("x-sum", " 2 ")]);
            for rules in [&request, &answer()] {
                if ["x-hop", "x-own"].contains(&name) && rules.of != Side::Request {
                    continue;
                }
                let cleaned = rules.cleaned(trailers.clone()).unwrap();
                assert_eq!(
                    cleaned,
                    Some(map(&[("x-sum", "2")])),
                    "{name} {:?}",
                    rules.of
                );
                assert_eq!(rules.cleaned(map(&[(name, "1")])), Ok(None), "{name}");
            }
        }
        let grpc = map(&[
            ("grpc-status", "5"),
            ("grpc-message", "no%20such"),
            ("grpc-status-details-bin", "AA"),
            ("a_b", "1"),
        ]);
        assert_eq!(answer().cleaned(grpc.clone()), Ok(Some(grpc.clone())));
        let kept = request.cleaned(grpc.clone()).unwrap().unwrap();
        assert_eq!(kept.len(), 3, "a request's fields have no underscore");
        let not_taken = TrailerRules::of_answer(Some(Vec::new()), false);
        assert_eq!(not_taken.cleaned(grpc.clone()), Ok(None));
        let too_many_nominated = TrailerRules::of_answer(None, true);
        assert_eq!(too_many_nominated.cleaned(grpc), Ok(None));
    }

    #[test]
    fn trailers_that_are_longer_than_a_head_break_their_message_p063() {
        let request = TrailerRules::of_request(Some(Vec::new()), Arc::default());
        for (rules, bytes, fields) in [
            (request, MAX_HEADER_BYTES as usize, MAX_HEADERS),
            (answer(), MAX_ANSWER_HEAD_BYTES, MAX_ANSWER_FIELDS),
        ] {
            for (length, count, is_whole) in [
                (bytes - 5, 1, true),
                (bytes - 4, 1, false),
                (1, fields, true),
                (1, fields + 1, false),
            ] {
                let value = HeaderValue::try_from("a".repeat(length)).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.extend(std::iter::repeat_n(
                    (HeaderName::from_static("x"), value),
                    count,
                ));
                assert_eq!(
                    rules.cleaned(trailers).is_ok(),
                    is_whole,
                    "{length} {count}"
                );
            }
        }
    }

    #[test]
    fn fields_that_cross_are_announced_once_p126() {
        for (lines, announced) in [
            (&[][..], None),
            (&["x-sum"], Some("x-sum")),
            (
                &["X-Sum, a b", "x-sum,host ,Set-Cookie", "x-b"],
                Some("x-sum, x-b"),
            ),
            (&["authorization"], None),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("trailer", *line)).collect();
            let value = answer().announced(&map(&fields));
            assert_eq!(
                value.as_ref().map(|value| value.to_str().unwrap()),
                announced
            );
        }
    }

    #[test]
    fn names_are_announced_up_to_the_bound_of_trailers_p063() {
        let names: Vec<_> = (0..10_000).map(|number| format!("x-{number}")).collect();
        let value = answer().announced(&map(&[("trailer", &names.join(","))]));
        let announced = value.unwrap().to_str().unwrap().split(", ").count();
        assert_eq!(announced, MAX_ANSWER_FIELDS);
    }
}
