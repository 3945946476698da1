//! Sanitized text of peers.

use std::fmt;

/// The longest part of a text that is logged, in bytes.
const MAX: usize = 256;

/// A text of a peer that is safe to log: at most 256 bytes, on one line, with escapes for characters
/// that are not printable. `Debug` adds quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sanitized<T>(pub T);

impl<T: AsRef<str>> Sanitized<T> {
    /// Returns the part that is logged, and the mark for an omitted rest.
    fn cut(&self) -> (&str, &'static str) {
        let text = self.0.as_ref();
        let mut ends = (0..=MAX.min(text.len())).rev();
        let end = ends.find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        (&text[..end], if end < text.len() { "…" } else { "" })
    }
}

impl<T: AsRef<str>> fmt::Display for Sanitized<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, rest) = self.cut();
        if shown.bytes().all(is_plain) {
            f.write_str(shown)?
        } else {
            write!(f, "{}", shown.escape_debug())?
        }
        f.write_str(rest)
    }
}

impl<T: AsRef<str>> fmt::Debug for Sanitized<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, rest) = self.cut();
        fmt::Debug::fmt(&format_args!("{shown}{rest}").to_string(), f)
    }
}

/// Returns whether a byte needs no escape. Most texts have only such bytes and are written at once.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_is_cut_and_escaped() {
        for (text, shown) in [
            ("spiffe://example.org/a b", "spiffe://example.org/a b"),
            ("x\nlevel=info", r"x\nlevel=info"),
            ("\u{1b}[31m\u{2028}", r"\u{1b}[31m\u{2028}"),
            ("\"\\", r#"\"\\"#),
            ("é", "é"),
        ] {
            assert_eq!(Sanitized(text).to_string(), shown);
            assert_eq!(format!("{:?}", Sanitized(text)), format!("\"{shown}\""));
        }
        for (text, chars) in [("é", 128 + 1), ("a", 256 + 1), ("€", 85 + 1)] {
            let long = Sanitized(text.repeat(1000)).to_string();
            assert_eq!(long.chars().count(), chars);
            assert!(long.ends_with('…'));
        }
        assert_eq!(Sanitized("a".repeat(MAX)).to_string(), "a".repeat(MAX));
    }
}
