//! Events: one committed change of one row, or one custom event.
//!
//! The images stay raw JSON text: most events match no condition that looks into them, and
//! text keeps every digit of every number.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::Operation;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::text::hex::hex;
use crate::trace::context::{TraceContext, trace_of};

/// Maximum bytes of both images together.
pub const MAX_EVENT_BYTES: i64 = 16 << 20;

/// Maximum bytes of a key: triggers log any.
pub const MAX_KEY_BYTES: i32 = 8 << 10;

/// Maximum bytes of a tenant.
pub const MAX_TENANT_BYTES: i32 = 8 << 10;

/// Maximum bytes of an entity's name.
pub const MAX_ENTITY_BYTES: i32 = 255;

/// A field of the event is larger than allowed; with its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OversizedField {
    /// Both images together.
    #[error(
        "the row's images take {0} bytes and at most {MAX_EVENT_BYTES} are delivered: exclude large columns with \
         observer.track(..., exclude => array['column'])"
    )]
    Images(i32),
    /// The key.
    #[error(
        "the row's key takes {0} bytes and at most {MAX_KEY_BYTES} are delivered: track the table by a shorter one"
    )]
    Key(i32),
    /// The tenant.
    #[error(
        "the row's tenant takes {0} bytes and at most {MAX_TENANT_BYTES} are delivered: correct the row, or track the \
         table by another tenant column"
    )]
    Tenant(i32),
    /// The entity's name.
    #[error(
        "the entity's name takes {0} bytes and at most {MAX_ENTITY_BYTES} are delivered: give observer.emit a shorter one"
    )]
    Entity(i32),
}

/// An event of the change log.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id in the log. Within a window, events are read in the order of this number.
    pub log_id: i64,
    /// Its permanent, unique id: see [`id`].
    pub id: String,
    /// Non-negative hash of tenant, entity and key, from which the shard follows.
    pub hash: u32,
    /// `schema.table`, or the name given to `observer.emit`.
    pub entity: Arc<str>,
    /// The operation.
    pub operation: Operation,
    /// Key of the row as text; a JSON array where it has several columns; absent for `Truncate`.
    pub key: Option<String>,
    /// Tenant, where the table was tracked with a tenant column.
    pub tenant: Option<String>,
    /// When the statement's transaction began.
    pub occurred_at: DateTime<Utc>,
    /// The row before, for `Update` and `Delete`.
    pub old: Option<Box<RawValue>>,
    /// The row after, for `Insert` and `Update`; the row of a `Read`; the payload of a `Custom` event.
    pub new: Option<Box<RawValue>>,
    /// The trace that its writer gave it.
    pub trace: Option<TraceContext>,
}

/// Returns the permanent id of an event: `<log identity>-<log_id>-<microseconds since 1970 in
/// hexadecimal>`.
///
/// The `log_id` alone is not unique: its sequence goes back where a server loses commits that it did
/// not wait for (in a crash with `synchronous_commit = off`, or when a lagging standby is promoted),
/// whose events may have been delivered. A transaction that draws such a number again began later,
/// however. After a restore, `reset-position` renews the log identity.
#[must_use]
pub fn id(incarnation: &str, log_id: i64, occurred_at: DateTime<Utc>) -> String {
    format!(
        "{incarnation}-{log_id}-{:x}",
        occurred_at.timestamp_micros()
    )
}

/// The id in SQL, of a row `past` of the log.
pub const ID_SQL: &str = "(select left(id::text, 8) from observer.log_identity) || '-' || past.id || '-' \
     || to_hex((extract(epoch from past.occurred_at) * 1000000)::bigint)";

/// An event as receivers see it, in the order of the fields here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<'a> {
    id: &'a str,
    entity: &'a str,
    operation: Operation,
    key: Option<&'a str>,
    tenant: Option<&'a str>,
    occurred_at: DateTime<Utc>,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
    changed: Vec<String>,
    observer: &'a str,
    action: &'a str,
    /// Left out unless it is one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replay: bool,
}

impl Event {
    /// Returns the body of its delivery by `action` of `observer`.
    #[must_use]
    pub fn envelope<'a>(
        &'a self,
        observer: &'a str,
        action: &'a str,
        replay: bool,
    ) -> Envelope<'a> {
        Envelope {
            id: &self.id,
            entity: &self.entity,
            operation: self.operation,
            key: self.key.as_deref(),
            tenant: self.tenant.as_deref(),
            occurred_at: self.occurred_at,
            old: self.old.as_deref(),
            new: self.new.as_deref(),
            changed: self.changed(),
            observer,
            action,
            replay,
        }
    }

    /// Returns the id of its trace: its writer's, or one that follows from its own id.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex(&trace_of(&self.id, self.trace))
    }

    /// Returns the bytes of its fields of variable length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let image = |image: &Option<Box<RawValue>>| text(image.as_deref().map(RawValue::get));
        let texts = text(self.key.as_deref()) + text(self.tenant.as_deref());
        (self.entity.len() + texts + image(&self.old) + image(&self.new)) as u64
    }

    /// Returns the names of the fields that differ between the two images, in order; none unless both
    /// are there.
    ///
    /// Both images were written by the same expression over the same columns, so equal text
    /// means an equal value.
    #[must_use]
    pub fn changed(&self) -> Vec<String> {
        type Fields = std::collections::BTreeMap<String, Box<RawValue>>;
        let (Some(old), Some(new)) = (&self.old, &self.new) else {
            return Vec::new();
        };
        let Ok(old) = serde_json::from_str::<Fields>(old.get()) else {
            return Vec::new();
        };
        let Ok(new) = serde_json::from_str::<Fields>(new.get()) else {
            return Vec::new();
        };
        let mut changed: Vec<String> = new
            .iter()
            .filter(|(name, value)| {
                old.get(*name)
                    .is_none_or(|before| before.get() != value.get())
            })
            .map(|(name, _)| name.clone())
            .chain(old.keys().filter(|name| !new.contains_key(*name)).cloned())
            .collect();
        changed.sort_unstable();
        changed
    }
}

#[cfg(test)]
impl Event {
    /// Returns an insert without images, for tests.
    pub(crate) fn fixture(log_id: i64) -> Self {
        Self {
            log_id,
            id: format!("a-{log_id}"),
            hash: 0,
            entity: "public.orders".into(),
            operation: Operation::Insert,
            key: None,
            tenant: None,
            occurred_at: DateTime::UNIX_EPOCH,
            old: None,
            new: None,
            trace: None,
        }
    }
}
