//! The own trust bundle, as other trust domains get it (Trust Domain and Bundle §4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// The keys of the own trust domain, and the sequence number that grows with each change of them.
#[derive(Default)]
pub(super) struct Published {
    keys: Vec<Value>,
    sequence: u64,
}

impl Published {
    /// Sets the keys. The sequence number grows if they differ from those before (Bundle §4.1.1).
    ///
    /// The number is the time in milliseconds. An agent that starts again remembers no number, and its
    /// bundle must still be newer than the one before.
    pub(super) fn update(&mut self, keys: Vec<Value>) {
        if keys == self.keys {
            return;
        }
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.sequence = now.max(self.sequence.saturating_add(1));
        self.keys = keys;
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the SPIFFE bundle document.
    pub(super) fn document(&self, refresh_hint: Duration) -> String {
        let document = json!({
            "keys": self.keys,
            "spiffe_sequence": self.sequence,
            "spiffe_refresh_hint": refresh_hint.as_secs(),
        });
        document.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_number_grows_with_each_change_of_the_keys_and_only_then_f004() {
        let key = |kid: &str| json!({ "kid": kid });
        let mut published = Published::default();
        let mut last = 0;
        for (keys, grows) in [
            (vec![key("a")], true),
            (vec![key("a")], false),
            (vec![key("a"), key("b")], true),
            (vec![key("b")], true),
            (vec![key("b")], false),
        ] {
            published.update(keys.clone());
            assert_eq!(published.sequence() > last, grows, "{keys:?}");
            last = published.sequence();
        }
        let document: Value =
            serde_json::from_str(&published.document(Duration::from_secs(7))).unwrap();
        let expected =
            json!({ "keys": [key("b")], "spiffe_sequence": last, "spiffe_refresh_hint": 7 });
        assert_eq!(document, expected);
    }
}
