//! Sanitized text of peers, which can neither begin a line of its own nor change how a terminal shows the line.

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

/// Returns whether a character can begin a line, or change how a terminal shows the text around it: a control
/// character, a separator of lines or paragraphs, or a mark of bidirectional text (UAX #9), which reorders what
/// stands beside it.
#[must_use]
pub fn disturbs_a_line(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// Writes a text with escapes for each character that [`disturbs_a_line`].
///
/// # Errors
/// Fails if `to` fails.
pub fn write_on_a_line(to: &mut impl fmt::Write, text: &str) -> fmt::Result {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return to.write_str(text);
    }
    text.chars().try_for_each(|char| {
        if disturbs_a_line(char) {
            write!(to, "{}", char.escape_default())
        } else {
            to.write_char(char)
        }
    })
}

/// Returns a text with escapes for each character that [`disturbs_a_line`].
#[must_use]
pub fn on_a_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // A `String` takes every text.
    let _ = write_on_a_line(&mut line, text);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_on_its_line_in_its_order() {
        for (text, shown) in [
            ("a \"b\" é 漢字 \\", "a \"b\" é 漢字 \\"),
            ("a\nb\t", r"a\nb\t"),
            ("\u{1b}[31m\u{85}", r"\u{1b}[31m\u{85}"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("\u{202e}a\u{2066}b\u{200f}", r"\u{202e}a\u{2066}b\u{200f}"),
        ] {
            assert_eq!(on_a_line(text), shown);
        }
    }

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
