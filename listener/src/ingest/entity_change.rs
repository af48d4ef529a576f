//! Rows of the log of entities that a `FraiseQL` application keeps, as events: what `observer.entity_change` does where
//! a trigger logs them, text for text. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::envelope::{Envelope, fields, is_there, text_of};
use crate::delivery::entity;

/// What the member `_change` of the images holds besides the verb, with the columns that it comes from.
const MEMBERS: [(&str, &str); 9] = [
    ("id", "id"),
    ("actor", "fk_contact"),
    ("actorType", "actor_type"),
    ("actingFor", "acting_for"),
    ("changedFields", "updated_fields"),
    ("cascade", "cascade"),
    ("status", "change_status"),
    ("traceId", "trace_id"),
    ("metadata", "extra_metadata"),
];

/// An event of such a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntityChange {
    /// Code of the operation.
    pub(super) operation: char,
    /// Schema of the log and type of the object.
    pub(super) entity: Arc<str>,
    /// The object's id.
    pub(super) key: Option<String>,
    /// The tenant, or else the customer.
    pub(super) tenant: Option<String>,
    /// The image before.
    pub(super) old: Option<String>,
    /// The image after.
    pub(super) new: Option<String>,
}

/// Reads an event from a row of the log of a schema. Returns nothing if the row is no JSON object.
pub(super) fn read(schema: &str, row: &str) -> Option<EntityChange> {
    let columns = fields(row)?;
    let text = |name: &str| columns.get(name).and_then(|value| text_of(value));
    let mut verb = text("modification_type");
    let (mut before, mut after) = (
        columns.get("object_data_before").copied(),
        columns.get("object_data").copied(),
    );
    if let Some(data) = after
        && let Some(envelope) = fields(data.get()).as_ref().and_then(Envelope::of)
    {
        verb = Some(envelope.op);
        (before, after) = (envelope.before, envelope.after);
    }
    let name = verb.as_deref().unwrap_or_default().to_uppercase();
    let operation = match &*name {
        "INSERT" | "C" => 'i',
        "UPDATE" | "U" => 'u',
        "DELETE" | "D" => 'd',
        _ => 'c',
    };
    let mut change = format!("{{\"verb\":{}", serde_json::to_string(&verb).ok()?);
    for (member, column) in MEMBERS {
        let value = columns.get(column).map_or("null", |value| value.get());
        // A text can always be written.
        let _ = write!(change, ",\"{member}\":{value}");
    }
    change.push('}');
    let object = text("object_type").unwrap_or_default();
    let (before, after) = (before.filter(is_there), after.filter(is_there));
    let (old, new) = match operation {
        'd' => (Some(with_change(before.or(after), &change)), None),
        'i' => (None, Some(with_change(after, &change))),
        _ => (
            before.map(|before| with_change(Some(before), &change)),
            Some(with_change(after, &change)),
        ),
    };
    Some(EntityChange {
        operation,
        entity: if object.contains('.') {
            object.into()
        } else {
            entity::join(schema, &object).into()
        },
        key: text("object_id"),
        tenant: text("tenant_id").or_else(|| text("fk_customer_org")),
        old,
        new,
    })
}

/// Adds what is known of the change to an image.
fn with_change(image: Option<&RawValue>, change: &str) -> String {
    let Some(image) = image.map(RawValue::get) else {
        return format!("{{\"_change\":{change}}}");
    };
    let Some(inner) = image
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        return format!("{{\"value\":{image},\"_change\":{change}}}");
    };
    if inner.trim().is_empty() {
        return format!("{{\"_change\":{change}}}");
    }
    format!("{{{},\"_change\":{change}}}", inner.trim_end())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn change(verb: &str) -> String {
        format!(
            "{{\"verb\":{verb},\"id\":null,\"actor\":7,\"actorType\":null,\"actingFor\":null,\"changedFields\":[\"a\"],\
             \"cascade\":null,\"status\":null,\"traceId\":null,\"metadata\":null}}"
        )
    }

    fn row(verb: &str, data: &str, before: &str) -> EntityChange {
        let row = format!(
            "{{\"object_type\":\"Post\",\"modification_type\":\"{verb}\",\"object_id\":\"1\",\"tenant_id\":null,\
             \"fk_customer_org\":5,\"fk_contact\":7,\"updated_fields\":[\"a\"],\"object_data\":{data},\
             \"object_data_before\":{before}}}"
        );
        read("core", &row).unwrap()
    }

    #[test]
    fn verbs_are_operations_and_others_are_custom_events() {
        let known = row("UPDATE", "{\"a\": 1e400}", "{\"a\": 1}");
        let made = |verb: &str| change(&format!("\"{verb}\""));
        let with =
            |inner: &str, verb: &str| Some(format!("{{{inner},\"_change\":{}}}", made(verb)));
        assert_eq!(
            known,
            EntityChange {
                operation: 'u',
                entity: "core.Post".into(),
                key: Some("1".to_owned()),
                tenant: Some("5".to_owned()),
                old: with("\"a\": 1", "UPDATE"),
                new: with("\"a\": 1e400", "UPDATE"),
            }
        );
        for verb in ["CUSTOM", "NOOP", "READ", "ARCHIVE"] {
            let other = row(verb, "{\"a\": 1}", "null");
            assert_eq!(
                (other.operation, other.old, other.new),
                ('c', None, with("\"a\": 1", verb))
            );
        }
        let gone = row("DELETE", "{}", "{\"a\": 1}");
        assert_eq!((gone.old, gone.new), (with("\"a\": 1", "DELETE"), None));
        let bare = row("DELETE", "{ }", "null");
        assert_eq!(
            bare.old,
            Some(format!("{{\"_change\":{}}}", made("DELETE")))
        );
        let odd = row("INSERT", "[1]", "null");
        assert_eq!(odd.new, with("\"value\":[1]", "INSERT"));
    }

    #[test]
    fn envelopes_are_opened() {
        let envelope = "{\"op\": \"u\", \"after\": {\"a\": 2}, \"ts_ms\": 5, \"before\": null, \"source\": {}}";
        let opened = row("INSERT", envelope, "{\"x\": 1}");
        let new = format!("{{\"a\": 2,\"_change\":{}}}", change("\"u\""));
        assert_eq!(
            (opened.operation, opened.old, opened.new),
            ('u', None, Some(new))
        );
        // A column of that name makes no envelope.
        let plain = row("INSERT", "{\"op\": \"u\"}", "null");
        assert_eq!(plain.operation, 'i');
    }
}
