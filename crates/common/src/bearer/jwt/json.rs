//! JSON that is read in full, within limits (RFC 8259 §9).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The most objects and arrays around a value, including the outermost object.
const MAX_DEPTH: usize = 32;

/// The most values, including those inside others.
const MAX_VALUES: usize = 1024;

/// The longest string and the longest name, in bytes.
const MAX_TEXT: usize = 4096;

/// Reads an object. No object in it may have a member twice, because readers differ in which of the two
/// they take.
///
/// # Errors
/// Fails when the text is not one JSON object of UTF-8, has a member twice, or exceeds a limit.
pub(super) fn object(text: &[u8]) -> serde_json::Result<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let limits = Limits {
        depth: MAX_DEPTH,
        values: &mut { MAX_VALUES },
    };
    let value = limits.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(serde_json::Error::custom("it is not an object")),
    }
}

/// Reads one value of at most `depth` levels and `values` values.
struct Limits<'a> {
    depth: usize,
    values: &'a mut usize,
}

impl Limits<'_> {
    /// Returns the limits for a value inside of this one.
    fn inside(&mut self) -> Limits<'_> {
        Limits {
            depth: self.depth,
            values: self.values,
        }
    }

    fn enter<E: Error>(&mut self) -> Result<(), E> {
        let deeper = self.depth.checked_sub(1);
        self.depth = deeper.ok_or_else(|| over("levels", MAX_DEPTH))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Limits<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.values.checked_sub(1);
        *self.values = left.ok_or_else(|| over("values", MAX_VALUES))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Limits<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        short(text)?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut read = Vec::new();
        while let Some(value) = values.next_element_seed(self.inside())? {
            read.push(value);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut read = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            short(&name)?;
            if read.contains_key(&name) {
                return Err(A::Error::custom(format!("{name} is there twice")));
            }
            read.insert(name, members.next_value_seed(self.inside())?);
        }
        Ok(Value::Object(read))
    }
}

fn short<E: Error>(text: &str) -> Result<(), E> {
    if text.len() <= MAX_TEXT {
        Ok(())
    } else {
        Err(over("bytes of text", MAX_TEXT))
    }
}

fn over<E: Error>(what: &str, limit: usize) -> E {
    E::custom(format!("more than {limit} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an object with arrays of `levels` levels.
    fn nested(levels: usize) -> String {
        format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn json_over_a_limit_or_with_a_member_twice_is_refused_j205() {
        let values = |number| format!(r#"{{"a":[{}]}}"#, vec!["0"; number].join(","));
        let text = |length| format!(r#"{{"a":"{}"}}"#, "x".repeat(length));
        let name = |length| format!(r#"{{"{}":0}}"#, "x".repeat(length));
        for (document, fault) in [
            (
                r#"{"a":1,"b":{"a":[{"a":null},{"a":-1.5}]}}"#.to_owned(),
                None,
            ),
            (r#"{"a":1,"\u0061":1}"#.to_owned(), Some("a is there twice")),
            (
                r#"{"b":[{"a":1,"a":1}]}"#.to_owned(),
                Some("a is there twice"),
            ),
            (nested(31), None),
            (nested(32), Some("more than 32 levels")),
            (nested(4000), Some("more than 32 levels")),
            // The object and the array are values as well.
            (values(1022), None),
            (values(1023), Some("more than 1024 values")),
            (text(4096), None),
            (text(4097), Some("more than 4096 bytes of text")),
            (name(4096), None),
            (name(4097), Some("more than 4096 bytes of text")),
            (
                r#"{"a":"\ud800"}"#.to_owned(),
                Some("unexpected end of hex escape"),
            ),
            (r#"{"a":1e400}"#.to_owned(), Some("number out of range")),
            (r#"{} {}"#.to_owned(), Some("trailing characters")),
            ("[]".to_owned(), Some("it is not an object")),
        ] {
            match (object(document.as_bytes()), fault) {
                (Ok(_), None) => {}
                (Err(error), Some(fault)) => {
                    assert!(error.to_string().starts_with(fault), "{document}: {error}");
                }
                (found, _) => panic!("{document}: {found:?}"),
            }
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err(), "it is not UTF-8");
    }

    proptest::proptest! {
        #[test]
        fn json_is_read_as_the_library_reads_it_j205(text in "[\\[\\]{}\":,0a -]{0,24}|\\{\"a\":[\\[\\]{}\":,0a -]{0,24}\\}") {
            let library = serde_json::from_str::<Value>(&text).ok();
            match object(text.as_bytes()) {
                Ok(members) => assert_eq!(Some(Value::Object(members)), library),
                // The library takes the last of two members, and other values than objects.
                Err(error) => assert!(
                    library.is_none_or(|value| !value.is_object()) || error.to_string().contains("twice"),
                    "{error}"
                ),
            }
        }
    }
}
