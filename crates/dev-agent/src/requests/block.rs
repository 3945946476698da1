//! Field blocks (RFC 7541 §6), which are rewritten with another `:authority`.

use super::{
    literal::{Malformed, Reader},
    table::{AUTHORITY, Field, Name, STATIC, Table},
};

/// The longest field block, before and after it is rewritten. hyper accepts 16 KiB.
pub(super) const MAX_BLOCK: usize = 64 << 10;

/// `:authority: localhost` as a literal that is not added to the table.
const LOCALHOST: &[u8] = b"\x01\x09localhost";

/// Rewrites the field blocks of one connection, in the order in which they come.
///
/// The rewritten blocks use no dynamic table, so that hyper's stays empty. The client's is kept here.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    table: Table,
}

impl Blocks {
    /// Returns the block with `localhost` as its `:authority`, if it has one.
    pub(super) fn rewrite(&mut self, block: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut rewritten = Vec::with_capacity(block.len() + LOCALHOST.len());
        let mut block = Reader(block);
        while let Some(first) = block.0.first() {
            match first.leading_zeros() {
                0 => match block.integer(7)? {
                    0 => return Err(Malformed),
                    AUTHORITY => rewritten.extend(LOCALHOST),
                    number @ ..=STATIC => rewritten.push(0x80 | number as u8),
                    number => self.table.field(number)?.write(&mut rewritten),
                },
                1 => {
                    let number = block.integer(6)?;
                    let field = self.literal(number, &mut block)?;
                    field.write(&mut rewritten);
                    self.table.insert(field);
                }
                2 => self.table.resize(block.integer(5)?)?,
                // Never-indexed fields (RFC 7541 §6.2.3) are among these.
                _ => {
                    let number = block.integer(4)?;
                    self.literal(number, &mut block)?.write(&mut rewritten);
                }
            }
            if rewritten.len() > MAX_BLOCK {
                return Err(Malformed);
            }
        }
        Ok(rewritten)
    }

    fn literal(&self, number: usize, block: &mut Reader<'_>) -> Result<Field, Malformed> {
        let name = self.table.name(number, block)?;
        let value = block.text()?;
        Ok(Field { name, value })
    }
}

impl Field {
    /// Writes the field as a literal that is not added to the table (RFC 7541 §6.2.2).
    fn write(&self, block: &mut Vec<u8>) {
        if self.is_authority() {
            return block.extend(LOCALHOST);
        }
        match &self.name {
            Name::Static(number @ ..15) => block.push(*number as u8),
            Name::Static(number) => block.extend([15, (number - 15) as u8]),
            Name::Literal(name) => {
                block.push(0);
                block.extend(&name.sent);
            }
        }
        block.extend(&self.value.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_authority_becomes_localhost_t001() {
        for (what, sent) in [
            ("indexed", &b"\x83\x41\x04/a/b\x86"[..]),
            ("not indexed", b"\x83\x01\x04/a/b\x86"),
            ("never indexed", b"\x83\x11\x04/a/b\x86"),
            ("empty", b"\x83\x41\x00\x86"),
            ("the empty one of the static table", b"\x83\x81\x86"),
            ("not UTF-8", b"\x83\x41\x02\xff\xfe\x86"),
            ("by name", b"\x83\x40\x0a:authority\x04/a/b\x86"),
            (
                "by name, coded",
                b"\x83\x00\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f\x04/a/b\x86",
            ),
            (
                "coded",
                b"\x83\x41\x8e\x54\x58\x53\x4d\x6a\x8b\x08\xe6\x2d\x49\x5d\x07\x27\x5f\x86",
            ),
        ] {
            let rewritten = Blocks::default().rewrite(sent).unwrap();
            assert_eq!(rewritten, b"\x83\x01\x09localhost\x86", "{what}");
        }
        assert_eq!(Blocks::default().rewrite(b"\x83\x86").unwrap(), b"\x83\x86");
    }

    #[test]
    fn later_blocks_may_refer_to_the_fields_of_earlier_ones_t001() {
        let mut blocks = Blocks::default();
        // :method, :authority, user-agent, and one with a literal name.
        let first = b"\x83\x41\x04/a/b\x7a\x03me!\x40\x01x\x01y";
        let expected = b"\x83\x01\x09localhost\x0f\x2b\x03me!\x00\x01x\x01y";
        assert_eq!(blocks.rewrite(first).unwrap(), expected);
        assert_eq!(blocks.rewrite(b"\x83\xc0\xbf\xbe").unwrap(), expected);
        // A name may be referred to with another value.
        let other = b"\x0f\x2b\x02me\x00\x01x\x01z\x01\x09localhost";
        let sent = b"\x0f\x30\x02me\x0f\x2f\x01z\x7f\x01\x00";
        assert_eq!(blocks.rewrite(sent).unwrap(), other);
        // The table is emptied.
        assert_eq!(blocks.rewrite(b"\x20\xbe"), Err(Malformed));
    }

    #[test]
    fn a_block_that_expands_without_end_is_malformed_w148() {
        let mut blocks = Blocks::default();
        let large = [&b"\x40\x01x\x7f\x81\x1e"[..], &[b'y'; 3968]].concat();
        blocks.rewrite(&large).unwrap();
        assert_eq!(blocks.rewrite(&[0xbe; 100]), Err(Malformed));
    }

    #[test]
    fn a_block_that_is_not_hpack_is_malformed_w148() {
        for sent in [
            &b"\x80"[..],
            b"\xbe",
            b"\x41",
            b"\x41\x05a",
            b"\x3f\xe2\x1f",
            b"\x00",
            b"\x41\x81\x00",
        ] {
            assert_eq!(Blocks::default().rewrite(sent), Err(Malformed), "{sent:x?}");
        }
    }
}
