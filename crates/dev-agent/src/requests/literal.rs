//! Integers and texts of HPACK (RFC 7541 §5).

/// The error that a field block is not HPACK, or is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed field block")]
pub(super) struct Malformed;

/// Reads a field block from its front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

/// A text as it was sent, with its length and its Huffman code if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) sent: Vec<u8>,
    /// The number of bytes that it stands for.
    pub(super) length: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Returns an integer that begins in the last `bits` bits of the next byte (RFC 7541 §5.1).
    pub(super) fn integer(&mut self, bits: u8) -> Result<usize, Malformed> {
        let most = (1 << bits) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Returns the next text (RFC 7541 §5.2).
    pub(super) fn text(&mut self) -> Result<Text, Malformed> {
        let before = self.0;
        let is_coded = before.first().is_some_and(|first| first & 128 != 0);
        let length = self.integer(7)?;
        let (value, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(Text {
            sent: before[..before.len() - rest.len()].to_vec(),
            length: if is_coded {
                decoded_length(value)?
            } else {
                length
            },
        })
    }
}

/// The number of codes of each length, from 0 to 30 bits. The code is canonical, so that these numbers
/// tell where each code ends (RFC 7541, appendix B). The end-of-string code of 30 bits is left out,
/// because it must not be sent.
const CODES: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 3,
];

/// Returns the number of bytes that a Huffman code stands for.
fn decoded_length(coded: &[u8]) -> Result<usize, Malformed> {
    let bits = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)));
    let (mut length, mut code, mut code_bits, mut first) = (0, 0, 0, 0);
    for bit in bits {
        code = code << 1 | bit;
        code_bits += 1;
        // `first` is the smallest code of this length. A smaller value would begin with a shorter code.
        first = (first + CODES.get(code_bits - 1).ok_or(Malformed)?) << 1;
        let count = *CODES.get(code_bits).ok_or(Malformed)?;
        if code < first + count {
            length += 1;
            (code, code_bits, first) = (0, 0, 0);
        }
    }
    // The padding is the front of the end-of-string code, whose bits are all 1 (RFC 7541 §5.2).
    if code_bits < 8 && code == (1 << code_bits) - 1 {
        Ok(length)
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_ends_within_three_more_bytes() {
        // The first three are in RFC 7541, appendix C.1.
        for (bytes, bits, expected) in [
            (&[0b1110_1010][..], 5, Ok(10)),
            (&[0b0001_1111, 154, 10], 5, Ok(1337)),
            (&[42], 8, Ok(42)),
            (&[127, 0], 7, Ok(127)),
            (&[], 7, Err(Malformed)),
            (&[127], 7, Err(Malformed)),
            (&[127, 128, 128, 128, 0], 7, Err(Malformed)),
        ] {
            assert_eq!(Reader(bytes).integer(bits), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_huffman_code_tells_the_length_of_its_text() {
        // The first three are in RFC 7541, appendix C.4.
        for (coded, text) in [
            (
                &b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..],
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (
                b"\x54\x58\x53\x4d\x6a\x8b\x08\xe6\x2d\x49\x5d\x07\x27\x5f",
                "%2Ftmp%2Fagent.sock",
            ),
            (b"", ""),
        ] {
            assert_eq!(decoded_length(coded), Ok(text.len()), "{text}");
        }
        for (what, coded) in [
            ("padding of zeros", &b"\xa8\xeb\x10\x64\x9c\xb0"[..]),
            ("padding of a byte", b"\xa8\xeb\x10\x64\x9c\xbf\xff"),
            ("end of string", b"\xff\xff\xff\xff"),
        ] {
            assert_eq!(decoded_length(coded), Err(Malformed), "{what}");
        }
    }

    #[test]
    fn a_text_is_kept_as_it_was_sent() {
        let mut reader = Reader(b"\x03abc\x86\xa8\xeb\x10\x64\x9c\xbf!");
        let plain = reader.text().unwrap();
        assert_eq!((&plain.sent[..], plain.length), (&b"\x03abc"[..], 3));
        let coded = reader.text().unwrap();
        assert_eq!((coded.sent.len(), coded.length), (7, 8));
        assert_eq!(reader.0, b"!");
        assert_eq!(Reader(b"\x04abc").text(), Err(Malformed));
    }
}
