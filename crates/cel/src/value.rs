//! Values under evaluation, which borrow from the event wherever they can.
//!
//! JSON inside an image is opened level by level, and only where an expression looks: reading
//! an object finds its fields' texts without reading those, and that scan does not call itself,
//! so no depth of nesting can exhaust the stack.

use std::borrow::Cow;
use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::number::Number;

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'v> {
    /// `null`.
    Null,
    /// True or false.
    Bool(bool),
    /// A number, exact.
    Number(Number<'v>),
    /// A text.
    Text(Cow<'v, str>),
    /// A point in time.
    Timestamp(DateTime<Utc>),
    /// A span of time.
    Duration(TimeDelta),
    /// A list that the expression made.
    List(Rc<Vec<Value<'v>>>),
    /// A list in an image, not yet opened.
    RawList(&'v str),
    /// An object in an image, not yet opened.
    RawObject(&'v str),
    /// An image.
    Row(&'v Fields<'v>),
}

/// Why a JSON text cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is no JSON, or holds half a surrogate pair.
    #[error("holds JSON that cannot be read (line {line}, column {column})")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// It holds a number that no 64 bits can place.
    #[error("holds a number whose exponent is too large")]
    Exponent,
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        // The error's own words may quote the value.
        Self::Malformed {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// A name or text of JSON, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'v>(#[serde(borrow)] Cow<'v, str>);

impl<'v> Value<'v> {
    /// Reads a JSON text; lists and objects stay closed.
    pub fn from_json(text: &'v str) -> Result<Self, JsonError> {
        let text = text.trim_ascii();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'"') => Self::Text(serde_json::from_str::<Text<'v>>(text)?.0),
            Some(b'[') => Self::RawList(text),
            Some(b'{') => Self::RawObject(text),
            _ => Self::Number(Number::parse(text).ok_or(JsonError::Exponent)?),
        })
    }

    /// What it is, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::Timestamp(_) => "a timestamp",
            Self::Duration(_) => "a duration",
            Self::List(_) | Self::RawList(_) => "a list",
            Self::RawObject(_) | Self::Row(_) => "an object",
        }
    }

    /// Bytes of text that reading or comparing it touches.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Number(number) => number.len(),
            Self::Text(text) => text.len(),
            Self::List(list) => size_of::<Self>().saturating_mul(list.len()),
            Self::RawList(text) | Self::RawObject(text) => text.len(),
            Self::Row(fields) => fields.bytes,
            _ => 1,
        }
    }
}

/// The elements of a JSON list.
pub(crate) fn read_list(text: &str) -> Result<Vec<Value<'_>>, JsonError> {
    let elements: Vec<&RawValue> = serde_json::from_str(text)?;
    elements
        .into_iter()
        .map(|element| Value::from_json(element.get()))
        .collect()
}

/// The fields of a JSON object, by name.
#[derive(Clone, Debug)]
pub struct Fields<'v> {
    /// Sorted by name; of fields of one name the last counts.
    sorted: Vec<(Cow<'v, str>, &'v RawValue)>,
    bytes: usize,
}

impl<'v> Fields<'v> {
    /// Reads a JSON object; its fields' values stay unread.
    pub fn read(text: &'v str) -> Result<Self, JsonError> {
        let mut fields = serde_json::from_str::<Self>(text)?;
        fields.bytes = text.len();
        Ok(fields)
    }

    /// The text of a field's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'v str> {
        let after = self.sorted.partition_point(|(field, _)| **field <= *name);
        let (field, value) = self.sorted.get(after.checked_sub(1)?)?;
        (field == name).then(|| value.get())
    }

    /// The names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Cow<'v, str>> {
        self.sorted.iter().map(|(name, _)| name)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut sorted = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    sorted.push((name, value));
                }
                // Stable, so that the last of one name stays last; then only that one is kept.
                sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
                sorted.reverse();
                sorted.dedup_by(|(earlier, _), (last, _)| earlier == last);
                sorted.reverse();
                Ok(Fields { sorted, bytes: 0 })
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_last_of_one_name_counts() {
        let fields = Fields::read(r#"{"b":1,"a":2,"b":3,"\u0061":4}"#).unwrap();
        assert_eq!(fields.get("b"), Some("3"));
        assert_eq!(fields.get("a"), Some("4"));
        assert_eq!(fields.get("c"), None);
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn errors_quote_no_value() {
        let error = Value::from_json(r#""secret \ud800""#).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
