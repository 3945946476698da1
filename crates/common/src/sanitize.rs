//! What a peer wrote, as a log may show it.

use std::fmt;

/// The longest piece of a peer's text that goes to the log, in bytes.
const MAX: usize = 256;

/// A peer's text, made safe to log: at most 256 bytes of it, on one line, what is not printable
/// escaped. `Debug` puts it in quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sanitized<T>(pub T);

impl<T: AsRef<str>> Sanitized<T> {
    /// What is shown of it, and what stands for the rest.
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
        match shown.bytes().all(is_plain) {
            true => f.write_str(shown)?,
            false => write!(f, "{}", shown.escape_debug())?,
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

/// What is shown as it is: nearly everything that peers write.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_wrote_is_cut_and_escaped() {
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
