//! Answers, counted by their status.

use std::collections::BTreeMap;

use common::count::Cells;
use http::StatusCode;

/// The first status, and the number of those that are counted one by one.
const FIRST: u16 = 100;
const COUNT: u16 = 500;

/// Answers, counted by their status.
#[derive(Debug)]
pub struct Statuses(Cells);

impl Statuses {
    pub(crate) fn add(&self, status: StatusCode) {
        let index = (status.as_u16() - FIRST).min(COUNT);
        self.0.add(index.into(), 1);
    }

    /// Returns the numbers of answers that are not zero. A status without a meaning of its own (RFC 9110 §15) is
    /// counted by its class, such as `2xx`. An upstream can therefore not make any number of labels.
    #[must_use]
    pub fn read(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for index in 0..=COUNT {
            let number = self.0.read(index.into());
            if number > 0 {
                *all.entry(label(FIRST + index)).or_default() += number;
            }
        }
        all
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(Cells::new(usize::from(COUNT) + 1))
    }
}

fn label(status: u16) -> String {
    let known = StatusCode::from_u16(status).ok();
    match known.and_then(|known| known.canonical_reason()) {
        Some(_) => status.to_string(),
        None if status < FIRST + COUNT => format!("{}xx", status / 100),
        None => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_without_a_meaning_are_counted_by_class() {
        let statuses = Statuses::default();
        for status in [100, 200, 200, 299, 298, 404, 599, 600, 999] {
            statuses.add(StatusCode::from_u16(status).unwrap());
        }
        let read = statuses.read();
        let read: Vec<_> = read.iter().map(|(label, n)| (label.as_str(), *n)).collect();
        let expected = [
            ("100", 1),
            ("200", 2),
            ("2xx", 2),
            ("404", 1),
            ("5xx", 1),
            ("other", 2),
        ];
        assert_eq!(read, expected);
    }
}
