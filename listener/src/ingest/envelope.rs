//! Changes of rows in the form of Debezium, and values of JSON as the change log has them. Pure.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::delivery::entity;

/// Members of a JSON object, as they are written.
pub(super) type Fields<'a> = HashMap<String, &'a RawValue>;

/// A change of a row: the value of a record of Debezium's connectors, without its schema.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// What happened, such as `c`, `u`, `d`, `r` or `t`.
    pub(super) op: String,
    /// The row before, as JSON.
    pub(super) before: Option<&'a RawValue>,
    /// The row after, as JSON.
    pub(super) after: Option<&'a RawValue>,
    /// Where it happened.
    source: Fields<'a>,
    /// When the connector saw it, in milliseconds.
    ts_ms: Option<i64>,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope with an image; nothing if the members are those of something else.
    pub(super) fn of(members: &Fields<'a>) -> Option<Self> {
        let has_image = members.contains_key("before") || members.contains_key("after");
        Self::of_any(members).filter(|_| has_image)
    }

    /// Reads an envelope, which of a message or a truncation has no image.
    pub(super) fn of_any(members: &Fields<'a>) -> Option<Self> {
        let op = members.get("op").filter(|op| op.get().starts_with('"'))?;
        let source = members.get("source").map(|source| source.get());
        Some(Self {
            op: text_of(op)?,
            before: members.get("before").copied().filter(is_there),
            after: members.get("after").copied().filter(is_there),
            source: source.and_then(fields).unwrap_or_default(),
            ts_ms: members.get("ts_ms").and_then(|value| number(value)),
        })
    }

    /// Code of the operation in the change log; what is none of a row is a custom event.
    pub(super) fn operation(&self) -> char {
        match &*self.op {
            "c" => 'i',
            "u" => 'u',
            "d" => 'd',
            "r" => 'r',
            "t" => 't',
            _ => 'c',
        }
    }

    /// The images of an operation on a row: before it and after it.
    pub(super) fn images(&self) -> (Option<&'a RawValue>, Option<&'a RawValue>) {
        match self.operation() {
            'd' => (self.before, None),
            'i' | 'r' => (None, self.after),
            't' => (None, None),
            _ => (self.before, self.after),
        }
    }

    /// Schema and table, or else database and table or collection.
    pub(super) fn table(&self) -> Option<String> {
        let text = |name: &str| {
            let text = self.source.get(name).and_then(|value| text_of(value));
            text.filter(|text| !text.is_empty())
        };
        let table = text("table").or_else(|| text("collection"))?;
        let schema = text("schema").or_else(|| text("db"));
        Some(schema.map_or_else(|| table.clone(), |schema| entity::join(&schema, &table)))
    }

    /// When it was committed, in microseconds since 1970, or else when the connector saw it.
    pub(super) fn micros(&self) -> Option<i64> {
        let committed = |name: &str| self.source.get(name).and_then(|value| number(value));
        let millis = || committed("ts_ms").filter(|at| *at > 0).or(self.ts_ms);
        let exact = committed("ts_us").filter(|at| *at > 0);
        exact.or_else(|| millis().map(|at| at.saturating_mul(1000)))
    }
}

/// The members of a JSON object; nothing if it is none.
pub(super) fn fields(json: &str) -> Option<Fields<'_>> {
    serde_json::from_str(json).ok()
}

/// Whether it is not null.
pub(super) fn is_there(value: &&RawValue) -> bool {
    value.get() != "null"
}

/// The value's text, as `->>` of its object.
pub(super) fn text_of(value: &RawValue) -> Option<String> {
    match value.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        text => Some(text.to_owned()),
    }
}

fn number(value: &RawValue) -> Option<i64> {
    value.get().parse().ok()
}

/// The key that values make: the text of one, or several as a JSON array.
pub(super) fn key_of(values: &[Option<&RawValue>]) -> Option<String> {
    if let [value] = values {
        return value.and_then(text_of);
    }
    let values: Vec<&str> = values
        .iter()
        .map(|value| value.map_or("null", RawValue::get))
        .collect();
    Some(format!("[{}]", values.join(", ")))
}
