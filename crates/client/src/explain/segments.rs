//! The header and the claims of a token, as text for a person. The signature is left out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use process::doctor::words;
use serde_json::Value;
use spiffe::SpiffeId;

/// The last second of the year 9999. A later time has no date.
const MAX_TIME: f64 = 253_402_300_799.0;

/// The parts of a token that are printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segments {
    pub(super) header: String,
    pub(super) claims: String,
    /// The times among the claims, by name.
    pub(super) times: Vec<(&'static str, String)>,
    /// The subject, if it is a SPIFFE ID.
    pub(super) subject: Option<SpiffeId>,
}

impl Segments {
    /// Reads the first two of three segments. Returns `None` if there are not three, because any of them may
    /// then be a signature.
    pub(super) fn of(token: &str, now: SystemTime) -> Option<Self> {
        let segments: Vec<_> = token.split('.').collect();
        let [header, claims, _] = segments.as_slice() else {
            return None;
        };
        let octets = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
        let parsed: Value = serde_json::from_slice(&octets).unwrap_or_default();
        let times = ["iat", "nbf", "exp"];
        let times = times.map(|name| Some((name, in_words(parsed.get(name)?, now))));
        Some(Self {
            header: decoded(header),
            claims: decoded(claims),
            times: times.into_iter().flatten().collect(),
            subject: parsed["sub"]
                .as_str()
                .and_then(|sub| SpiffeId::new(sub).ok()),
        })
    }
}

/// Returns the text of a segment, on one line.
fn decoded(segment: &str) -> String {
    match URL_SAFE_NO_PAD.decode(segment) {
        Ok(octets) => printable(&String::from_utf8_lossy(&octets)),
        Err(_) => "it is not base64url".to_owned(),
    }
}

/// Returns a text with escapes for characters that are not printable. Quotes stay, because they are JSON's.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '"' | '\'' | '\\' => printable.push(one),
            one => printable.extend(one.escape_debug()),
        }
    }
    printable
}

fn in_words(time: &Value, now: SystemTime) -> String {
    let seconds = time.as_f64().filter(|time| (0.0..=MAX_TIME).contains(time));
    let since = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match since {
        Some(since) => words::time(UNIX_EPOCH + since, now),
        None => "it is not a time from 1970 to 9999".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(parts: &[&str]) -> String {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .collect();
        parts.join(".")
    }

    #[test]
    fn header_claims_and_times_are_read_and_the_signature_is_not() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let claims = r#"{"exp":1000060,"iat":999940.5,"nbf":"x"}"#;
        let segments = Segments::of(&token(&[r#"{"alg":"ES256"}"#, claims, "secret"]), now);
        let segments = segments.unwrap();
        assert_eq!(segments.header, r#"{"alg":"ES256"}"#);
        assert_eq!(segments.claims, claims);
        assert_eq!(
            segments.times,
            [
                ("iat", "1970-01-12T13:45:40Z (59s ago)".to_owned()),
                ("nbf", "it is not a time from 1970 to 9999".to_owned()),
                ("exp", "1970-01-12T13:47:40Z (in 1m)".to_owned()),
            ]
        );
    }

    #[test]
    fn text_that_is_not_three_segments_is_not_shown() {
        let now = SystemTime::now();
        for parts in [&["a"] as &[&str], &["a", "b"], &["a", "b", "c", "d"]] {
            assert_eq!(Segments::of(&token(parts), now), None);
        }
        let odd = Segments::of("!.e30.", now).unwrap();
        assert_eq!(odd.header, "it is not base64url");
        let odd = Segments::of(
            &token(&["\u{1b}[2J\n\u{202e}\"", "{\"exp\":1e300}", ""]),
            now,
        );
        let odd = odd.unwrap();
        assert_eq!(odd.header, r#"\u{1b}[2J\n\u{202e}""#);
        assert_eq!(odd.times[0].1, "it is not a time from 1970 to 9999");
    }
}
