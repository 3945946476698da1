//! `Via` (RFC 9110 §7.6.3): names this hop, and finds requests in a loop. The module does no I/O.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, Version, header::VIA};
use serve::fields::members;

/// The beginning of the pseudonym of every process of this product.
const PRODUCT: &str = "spiffe-jwt-proxy-";

/// The most hops of this product that a request may name. One that names more is in a loop of several
/// processes.
const MAX_HOPS: usize = 10;

/// The hop that this process is. It is made once, because each message gets one of its values.
static HOP: LazyLock<Hop> = LazyLock::new(Hop::new);

/// A process as a hop. The values are static, so that cores do not share a reference count.
struct Hop {
    pseudonym: String,
    http_1_0: HeaderValue,
    http_1_1: HeaderValue,
    http_2: HeaderValue,
}

impl Hop {
    /// Draws a random pseudonym, which distinguishes a proxy in front of another from one that leads
    /// back to itself.
    fn new() -> Self {
        let pseudonym = format!("{PRODUCT}{:016x}", fastrand::u64(..));
        let value = |version| HeaderValue::from_static(format!("{version} {pseudonym}").leak());
        Self {
            http_1_0: value("1.0"),
            http_1_1: value("1.1"),
            http_2: value("2.0"),
            pseudonym,
        }
    }
}

/// Returns whether a request has been here before, or at more than [`MAX_HOPS`] hops of this product.
pub(super) fn is_loop(headers: &HeaderMap) -> bool {
    let mut hops = 0;
    members(headers, &VIA).filter_map(received_by).any(|by| {
        hops += usize::from(begins_with(by, PRODUCT));
        hops > MAX_HOPS || by.eq_ignore_ascii_case(HOP.pseudonym.as_bytes())
    })
}

/// Appends this hop, with the version of HTTP that the message came over.
pub(super) fn append(headers: &mut HeaderMap, received: Version) {
    let hop = match received {
        Version::HTTP_10 => &HOP.http_1_0,
        Version::HTTP_2 => &HOP.http_2,
        _ => &HOP.http_1_1,
    };
    headers.append(VIA, hop.clone());
}

/// Returns the hop that a member of `Via` names. A member reads `protocol by (comment)`.
fn received_by(member: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split_word(member)?;
    let rest = rest.trim_ascii_start();
    let by = split_word(rest).map_or(rest, |(by, _)| by);
    (!by.is_empty()).then_some(by)
}

/// Returns the beginning of a text up to its first white space, and the rest, if there is white space.
fn split_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    text.split_at_checked(text.iter().position(u8::is_ascii_whitespace)?)
}

fn begins_with(by: &[u8], prefix: &str) -> bool {
    by.get(..prefix.len())
        .is_some_and(|beginning| beginning.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns `Via` with these lines.
    fn via(lines: &[String]) -> HeaderMap {
        let line = |line: &String| (VIA, HeaderValue::try_from(line).unwrap());
        lines.iter().map(line).collect()
    }

    fn others(count: usize) -> Vec<String> {
        let other = |number| format!("1.1 spiffe-jwt-proxy-{number:016x}");
        (0..count).map(other).collect()
    }

    #[test]
    fn each_version_has_its_value_with_the_same_pseudonym_p018() {
        let mut headers = HeaderMap::new();
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            append(&mut headers, version);
        }
        let values: Vec<_> = headers.get_all(VIA).iter().collect();
        let own = &HOP.pseudonym;
        assert_eq!(own.len(), "spiffe-jwt-proxy-".len() + 16);
        assert_eq!(
            values,
            [
                &format!("1.0 {own}"),
                &format!("1.1 {own}"),
                &format!("2.0 {own}")
            ]
        );
    }

    #[test]
    fn another_process_has_another_pseudonym_p018() {
        assert_ne!(Hop::new().pseudonym, Hop::new().pseudonym);
    }

    #[test]
    fn a_request_that_was_here_before_is_a_loop_p019() {
        let own = &HOP.pseudonym;
        for (lines, is_a_loop) in [
            (vec![], false),
            (vec![format!("1.1 {own}")], true),
            (
                vec![format!("2.0 other, 1.1 {} (x)", own.to_uppercase())],
                true,
            ),
            (vec!["1.1 other".into(), format!("HTTP/1.1  {own}")], true),
            (vec![format!("1.1 {own}x")], false),
            (vec![format!("1.1 other ({own})")], false),
            (vec![own.clone()], false),
            (vec!["1.1 spiffe-jwt-proxy".into()], false),
        ] {
            assert_eq!(is_loop(&via(&lines)), is_a_loop, "{lines:?}");
        }
    }

    #[test]
    fn more_than_ten_hops_of_this_product_are_a_loop_p019() {
        for (hops, is_a_loop) in [(1, false), (10, false), (11, true), (90, true)] {
            assert_eq!(is_loop(&via(&others(hops))), is_a_loop, "{hops}");
            let in_one = [others(hops).join(" , ").to_uppercase()];
            assert_eq!(is_loop(&via(&in_one)), is_a_loop, "{hops} in one line");
        }
        let strangers: Vec<_> = (0..90).map(|number| format!("1.1 h{number}")).collect();
        assert!(!is_loop(&via(&strangers)));
    }
}
