//! Patterns over the paths of requests.
//!
//! A pattern compares bytes and normalizes nothing. Servers differ in how they read some spellings of
//! a path, such as `/a/../b`, `/a%2Fb` or `/a;x/b`. A path with such a spelling could mean one thing
//! to this process and another to the application. `/**` therefore does not match it, and only a
//! pattern that spells it in the same way does.
//!
//! `matchit`, which axum's router uses, and `globset` have richer patterns. Both match `/api/../admin` by a pattern
//! for all paths below `/api/`, because the spelling of a path does not matter to them. The rule about spellings
//! would therefore be written here in any case. The rest is a comparison of bytes.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;

/// A pattern that matches one path, or all paths below one.
///
/// ```
/// use common::path::PathPattern;
///
/// let pattern: PathPattern = "/api/**".parse()?;
/// assert!(pattern.matches("/api/orders/7"));
/// assert!(!pattern.matches("/api") && !pattern.matches("/api/../admin"));
/// # Ok::<(), common::path::PathPatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Matches this path.
    Exact(String),
    /// Matches the paths that begin with this one, which ends in a slash.
    Below(String),
}

/// The reason why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// The text does not begin with a slash, or has an octet that no path has.
    #[error("expected a path from / on, for example /status, or all paths below one: /api/**")]
    NotAPath,
    /// The text has a query or a fragment, which no pattern matches.
    #[error(
        "a pattern has no query and no fragment, because it is compared with the path alone; expected for example /status"
    )]
    Query,
    /// The text has a star in another place than a final `/**`.
    #[error(
        "a star stands only in a final /**, which matches all paths below; expected for example /api/**"
    )]
    Star,
}

impl PathPattern {
    /// Returns whether the pattern matches `path`, which is compared as it was sent.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match &self.0 {
            Kind::Exact(exact) => exact == path,
            Kind::Below(above) => path
                .strip_prefix(above.as_str())
                .is_some_and(has_one_reading),
        }
    }

    /// Returns whether the pattern matches every path that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, Kind::Exact(path)) => self.matches(path),
            (Kind::Below(above), Kind::Below(path)) => path
                .strip_prefix(above.as_str())
                .is_some_and(has_one_reading),
            (Kind::Exact(_), Kind::Below(_)) => false,
        }
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        if text.contains(['?', '#']) {
            return Err(PathPatternError::Query);
        }
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_path {
            return Err(PathPatternError::NotAPath);
        }
        let above = text.strip_suffix("**").filter(|above| above.ends_with('/'));
        if above.unwrap_or(text).contains('*') {
            return Err(PathPatternError::Star);
        }
        Ok(Self(match above {
            Some(above) => Kind::Below(above.to_owned()),
            None => Kind::Exact(text.to_owned()),
        }))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(path) => write!(f, "{path}"),
            Kind::Below(above) => write!(f, "{above}**"),
        }
    }
}

/// Returns whether every server reads `rest`, the part of a path after a slash, as the same segments.
fn has_one_reading(rest: &str) -> bool {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b';' | b'\\');
    let mut segments = rest.split('/');
    // A path that ends in a slash has an empty last segment.
    let last = segments.next_back().unwrap_or_default();
    !is_dots(last)
        && segments.all(|segment| !segment.is_empty() && !is_dots(segment))
        && rest.bytes().all(is_plain)
        && (!rest.contains('%') || has_plain_escapes(rest))
}

/// Returns whether each percent escape is whole and has one meaning, and whether they are UTF-8.
fn has_plain_escapes(text: &str) -> bool {
    let mut escapes = text.split('%').skip(1);
    escapes.all(is_plain_escape) && percent_decode_str(text).decode_utf8().is_ok()
}

/// Returns whether no server reads the escape that begins with `digits` as something else. It could
/// be the octet itself, a delimiter, or another escape.
fn is_plain_escape(digits: &str) -> bool {
    let hex = |text: &str, at| text.get(at..at + 2).and_then(hex_octet);
    let Some(octet) = hex(digits, 0) else {
        return false;
    };
    let is_unreserved = octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
    let is_delimiter = octet.is_ascii_control() || b"/\\;?#".contains(&octet);
    let begins_escape = octet == b'%' && hex(digits, 2).is_some();
    !is_unreserved && !is_delimiter && !begins_escape
}

/// Returns the octet that two hexadecimal digits stand for.
fn hex_octet(two: &str) -> Option<u8> {
    let is_hex = two.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(two, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn pattern_matches_its_path_or_the_paths_below_it_h001() {
        for (text, path, expected) in [
            ("/", "/", true),
            ("/", "", false),
            ("/", "/a", false),
            ("/status", "/status", true),
            ("/status", "/status/", false),
            ("/status", "/Status", false),
            ("/status", "/%73tatus", false),
            ("/**", "/", true),
            ("/**", "/a", true),
            ("/**", "/a/b.c/d/", true),
            ("/**", "*", false),
            ("/api/**", "/api/", true),
            ("/api/**", "/api/v1/x", true),
            ("/api/**", "/api", false),
            ("/api/**", "/apis/x", false),
            ("/api/**", "/API/x", false),
            ("/pkg.Service/**", "/pkg.Service/Method", true),
            ("/a/b/**", "/a/c", false),
        ] {
            assert_eq!(pattern(text).matches(path), expected, "{text} {path}");
        }
    }

    #[test]
    fn path_with_two_readings_matches_only_a_pattern_that_spells_it_h002() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a/.",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/a;b",
            "/a;/b",
            "/a\\b",
            "/%2Fa",
            "/a%2fb",
            "/%2e%2e/a",
            "/%2E/a",
            "/a%5Cb",
            "/a%5cb",
            "/a%00",
            "/a%0d%0ab",
            "/a%3bb",
            "/a%3Fb",
            "/a%23b",
            "/%61dmin",
            "/a%7Eb",
            "/a%2Db",
            "/a%252e",
            "/a%252Fb",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/a%c0%ae",
            "/a%ff",
            "/a\u{e4}",
            "/a b",
        ] {
            assert!(!pattern("/**").matches(path), "{path}");
            if let Ok(exact) = path.parse::<PathPattern>() {
                assert!(exact.matches(path), "{path}");
            }
        }
        for path in [
            "/a..b",
            "/...",
            "/.well-known/x",
            "/~a",
            "/a%20b",
            "/a%40b",
            "/a%3Ab",
            "/%C3%A4",
            "/100%25",
            "/a:b",
            "/a@b",
            "/a=b,c",
            "/a'b",
            "/a+b",
            "/a!",
            "/a/",
        ] {
            assert!(pattern("/**").matches(path), "{path}");
        }
        assert!(
            pattern("/a%2Fb/**").matches("/a%2Fb/c"),
            "the pattern spells it"
        );
        assert!(!pattern("/a/**").matches("/a//b"));
        assert!(!pattern("/a/**").matches("/a/../b"));
    }

    #[test]
    fn pattern_covers_one_that_matches_no_other_path() {
        for (text, other, expected) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a", "/a/**", false),
            ("/**", "/", true),
            ("/**", "/**", true),
            ("/**", "/a/**", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/a/**", "/a/b/**", true),
            ("/a/**", "/ab/**", false),
            ("/a/b/**", "/a/**", false),
            ("/**", "/a//b", false),
            ("/**", "/a/../**", false),
            ("/a/../**", "/a/../**", true),
        ] {
            assert_eq!(
                pattern(text).covers(&pattern(other)),
                expected,
                "{text} {other}"
            );
        }
    }

    #[test]
    fn text_that_is_not_a_path_or_has_another_star_is_refused() {
        use PathPatternError::*;
        for (text, error) in [
            ("", NotAPath),
            ("status", NotAPath),
            ("**", NotAPath),
            ("/a b", NotAPath),
            ("/\u{e4}", NotAPath),
            ("/a?b", Query),
            ("/a#b", Query),
            ("/*", Star),
            ("/a/*", Star),
            ("/a**", Star),
            ("/**/a", Star),
            ("/a*/**", Star),
            ("/***", Star),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
        }
    }

    /// Returns the segments of a path as a lenient server reads them. It decodes, cuts parameters,
    /// takes backslashes for slashes, and resolves dots and empty segments.
    fn resolved(path: &str) -> Vec<String> {
        let mut text = path.to_owned();
        for _ in 0..2 {
            text = percent_decode_str(&text).decode_utf8_lossy().into_owned();
        }
        let mut resolved = Vec::new();
        for segment in text.split(['/', '\\']) {
            match segment.split(';').next().unwrap_or_default() {
                "" | "." => {}
                ".." => drop(resolved.pop()),
                plain => resolved.push(plain.to_owned()),
            }
        }
        resolved
    }

    proptest! {
        /// Checks with similar paths that a path below a pattern stays there, however it is read.
        #[test]
        fn path_below_a_pattern_is_below_it_for_a_lenient_reader_h002(
            parts in prop::collection::vec(
                prop::sample::select(vec!["a", "b", "/", ".", "..", "%2e", "%2F", "%5c", "\\", ";", "%25", "2e", "%61", "%20"]),
                0..8,
            ),
        ) {
            let path = format!("/a/{}", parts.concat());
            if pattern("/a/**").matches(&path) {
                let segments = resolved(&path);
                prop_assert_eq!(segments.first().map(String::as_str), Some("a"), "{}", path);
                let plain = path.split('/').filter(|segment| !segment.is_empty());
                prop_assert_eq!(segments.len(), plain.count(), "{}", path);
            }
        }

        /// Checks that no text panics, and that a pattern is displayed as it was parsed.
        #[test]
        fn any_text_is_a_path_pattern_or_an_error(text in "/?[a-z%/.*2eF;?#]{0,16}(/\\*\\*)?", path in ".*") {
            if let Ok(pattern) = text.parse::<PathPattern>() {
                prop_assert_eq!(pattern.to_string(), text);
                let _is_a_match = pattern.matches(&path);
            }
        }
    }
}
