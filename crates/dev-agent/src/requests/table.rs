//! The fields that a client refers to by number (RFC 7541 §2.3).

use std::collections::VecDeque;

use super::literal::{Malformed, Reader, Text};

/// The number of fields in the static table.
pub(super) const STATIC: usize = STATIC_NAMES.len();
/// The largest size of the dynamic table, because the agent announces no other.
const MAX_SIZE: usize = 4096;
/// The size of an entry in addition to its texts (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// The lengths of the names in the static table (RFC 7541, appendix A).
const STATIC_NAMES: [usize; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) value: Text,
}

#[derive(Clone, Debug)]
pub(super) enum Name {
    /// The number of a field in the static table.
    Static(usize),
    Literal(Text),
}

/// The dynamic table of the client's encoder.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest field is the first.
    fields: VecDeque<Field>,
    size: usize,
    max_size: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            fields: VecDeque::new(),
            size: 0,
            max_size: MAX_SIZE,
        }
    }
}

impl Table {
    /// Returns the field with this number, which is not in the static table.
    pub(super) fn field(&self, number: usize) -> Result<&Field, Malformed> {
        let index = number.checked_sub(STATIC + 1).ok_or(Malformed)?;
        self.fields.get(index).ok_or(Malformed)
    }

    /// Returns the name with this number, or the literal name that follows in `block` for number 0.
    pub(super) fn name(&self, number: usize, block: &mut Reader<'_>) -> Result<Name, Malformed> {
        match number {
            0 => Ok(Name::Literal(block.text()?)),
            1..=STATIC => Ok(Name::Static(number)),
            _ => Ok(self.field(number)?.name.clone()),
        }
    }

    /// Adds a field, and removes the oldest ones that have no room (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, field: Field) {
        self.size += field.size();
        self.fields.push_front(field);
        self.evict();
    }

    /// Changes the size that the client may use (RFC 7541 §6.3).
    pub(super) fn resize(&mut self, max_size: usize) -> Result<(), Malformed> {
        if max_size > MAX_SIZE {
            return Err(Malformed);
        }
        self.max_size = max_size;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.size > self.max_size
            && let Some(oldest) = self.fields.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

impl Field {
    fn size(&self) -> usize {
        let name = match &self.name {
            Name::Static(number) => STATIC_NAMES[number - 1],
            Name::Literal(name) => name.length,
        };
        name + self.value.length + OVERHEAD
    }

    /// Returns whether the field is `:authority`, by its number or its name in either code.
    pub(super) fn is_authority(&self) -> bool {
        const PLAIN: &[u8] = b"\x0a:authority";
        const CODED: &[u8] = b"\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
        match &self.name {
            Name::Static(number) => *number == AUTHORITY,
            Name::Literal(name) => [PLAIN, CODED].contains(&&name.sent[..]),
        }
    }
}

/// The number of `:authority` in the static table.
pub(super) const AUTHORITY: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Text {
        let sent = vec![0; length];
        Text { sent, length }
    }

    fn field(length: usize) -> Field {
        Field {
            name: Name::Literal(text(0)),
            value: text(length - OVERHEAD),
        }
    }

    #[test]
    fn the_oldest_fields_make_room_for_new_ones() {
        let mut table = Table::default();
        for length in [100, 3000, 1000] {
            table.insert(field(length));
        }
        let sizes = |table: &Table| table.fields.iter().map(Field::size).collect::<Vec<_>>();
        assert_eq!(sizes(&table), [1000, 3000]);
        assert!(table.field(62).is_ok() && table.field(63).is_ok());
        assert!(table.field(61).is_err() && table.field(64).is_err());
        table.resize(3999).unwrap();
        assert_eq!(sizes(&table), [1000]);
        table.insert(field(4000));
        assert_eq!(
            sizes(&table),
            [0_usize; 0],
            "the field is larger than the table"
        );
        assert_eq!(table.size, 0);
        assert_eq!(table.resize(4097), Err(Malformed));
    }

    #[test]
    fn a_field_of_the_static_table_counts_its_name() {
        let name = Name::Static(58);
        let value = text(5);
        assert_eq!(Field { name, value }.size(), "user-agent".len() + 5 + 32);
    }
}
