//! Records of topics as rows of the change log. Pure.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{KafkaTopicConfig, TopicContents};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::envelope::{Envelope, Fields, fields, is_there, key_of, text_of};
use super::super::rows::LogRow;
use crate::text::hex::hex;
use crate::trace::context::TraceContext;

/// A record as it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// The key.
    pub(super) key: Option<&'a [u8]>,
    /// The value.
    pub(super) value: Option<&'a [u8]>,
    /// Its time, in milliseconds since 1970.
    pub(super) timestamp: i64,
    /// The header `traceparent`.
    pub(super) traceparent: Option<&'a str>,
}

/// Why a record is no event. What it says does not depend on the record's content, so it can be counted by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Its value is not JSON.
    #[error("its value is not JSON")]
    NotJson,
    /// Its value is another JSON than a change.
    #[error("its value is no change of Debezium, which has op, and before or after")]
    NoChange,
    /// Fields of it identify a row, and it is none.
    #[error("its value is no JSON object, and the key or the tenant is a field of it")]
    NoObject,
    /// Postgres cannot store it.
    #[error(
        "its key, tenant or entity has a NUL character, or its value is nested more than 1000 levels deep"
    )]
    NotStorable,
    /// The change log refused it.
    #[error("the change log refuses it with SQLSTATE {0}")]
    Refused(String),
}

/// Reads the event that a record is; none if it says nothing new, as the tombstone after a deletion.
pub(super) fn read(
    topic: &KafkaTopicConfig,
    record: Record<'_>,
    now: DateTime<Utc>,
) -> Result<Option<LogRow>, Malformed> {
    let value = record.value.map(json).transpose()?;
    let (value, members) = match value.map(without_schema) {
        Some((value, members)) => (Some(value).filter(is_there), members),
        None => (None, None),
    };
    let row = match (topic.contents, value) {
        (TopicContents::Debezium, None) => return Ok(None),
        (TopicContents::Debezium, Some(value)) => change(topic, record, (value, members))?,
        (TopicContents::Rows, None) => row(topic, record, 'd', (None, None))?,
        (TopicContents::Rows, value) => row(topic, record, 'u', (None, value))?,
        (TopicContents::Events, value) => row(topic, record, 'c', (None, value))?,
    };
    if !row.is_storable() {
        return Err(Malformed::NotStorable);
    }
    // The log is kept by the age of its events: none is newer than now.
    let occurred_at = row.occurred_at.min(now);
    Ok(Some(LogRow { occurred_at, ..row }))
}

/// The event of a change.
fn change(
    topic: &KafkaTopicConfig,
    record: Record<'_>,
    (value, members): (&RawValue, Option<Fields<'_>>),
) -> Result<LogRow, Malformed> {
    let members = members.ok_or(Malformed::NoChange)?;
    let envelope = Envelope::of_any(&members).ok_or(Malformed::NoChange)?;
    let operation = envelope.operation();
    let has_image = envelope.before.is_some() || envelope.after.is_some();
    if !has_image && !matches!(operation, 't' | 'c') {
        return Err(Malformed::NoChange);
    }
    let images = match operation {
        'c' => (None, Some(value)),
        _ => envelope.images(),
    };
    let mut row = row(topic, record, operation, images)?;
    if topic.entity.is_none()
        && let Some(table) = envelope.table()
    {
        row.entity = table.into();
    }
    if let Some(at) = envelope.micros().and_then(DateTime::from_timestamp_micros) {
        row.occurred_at = at;
    }
    Ok(row)
}

/// A row of the log with these images.
fn row(
    topic: &KafkaTopicConfig,
    record: Record<'_>,
    operation: char,
    (old, new): (Option<&RawValue>, Option<&RawValue>),
) -> Result<LogRow, Malformed> {
    let image = new.or(old);
    // What is deleted may be known by its key alone; a truncation and a custom event need have none.
    let needs_fields = !topic.key.is_empty() || topic.tenant.is_some();
    let members = match image.filter(|_| needs_fields) {
        Some(image) => Some(fields(image.get()).ok_or(Malformed::NoObject)?),
        None => None,
    };
    let field = |name: &String| {
        let value = members.as_ref().and_then(|members| members.get(name));
        value.copied().filter(is_there)
    };
    let key = match (operation, &members) {
        ('t', _) => None,
        (_, Some(_)) if !topic.key.is_empty() => {
            let values: Vec<Option<&RawValue>> = topic.key.iter().map(field).collect();
            key_of(&values)
        }
        _ => record.key.and_then(record_key),
    };
    Ok(LogRow {
        operation,
        entity: Arc::from(topic.entity.as_ref().unwrap_or(&topic.topic).as_str()),
        key,
        tenant: topic.tenant.as_ref().and_then(field).and_then(text_of),
        occurred_at: DateTime::from_timestamp_millis(record.timestamp).unwrap_or_default(),
        old: old.map(|image| image.get().to_owned()),
        new: new.map(|image| image.get().to_owned()),
        trace: record.traceparent.and_then(TraceContext::parse),
    })
}

/// The key's text: that of a JSON text or number, of the one field of an object, several fields as an array, or else
/// the bytes as they are; in hexadecimal where they are no text.
fn record_key(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'));
    let Some(text) = text else {
        return Some(format!("\\x{}", hex(bytes)));
    };
    let Ok(value) = serde_json::from_str::<&RawValue>(text) else {
        return Some(text.to_owned());
    };
    let (value, _) = without_schema(value);
    let Ok(Members(members)) = serde_json::from_str(value.get()) else {
        return text_of(value);
    };
    let values = members
        .into_iter()
        .map(|value| Some(value).filter(is_there));
    key_of(&values.collect::<Vec<_>>())
}

fn json(bytes: &[u8]) -> Result<&RawValue, Malformed> {
    serde_json::from_slice(bytes).map_err(|_| Malformed::NotJson)
}

/// The value itself, where a converter has written it together with its schema, and its members if it is an object.
fn without_schema(value: &RawValue) -> (&RawValue, Option<Fields<'_>>) {
    let members = fields(value.get());
    let payload = members
        .as_ref()
        .filter(|members| members.len() == 2 && members.contains_key("schema"))
        .and_then(|members| members.get("payload").copied());
    match payload {
        Some(payload) => (payload, fields(payload.get())),
        None => (value, members),
    }
}

/// Values of the members of a JSON object, in their order.
struct Members<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((_, value)) = map.next_entry::<IgnoredAny, _>()? {
                    members.push(value);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests;
