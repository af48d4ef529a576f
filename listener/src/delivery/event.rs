//! An event as it comes out of the log: one committed change of one row, or one custom event.
//!
//! The images stay raw JSON text: most events match no condition that looks into them, and
//! text keeps every digit of every number.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::Operation;
use serde::Serialize;
use serde_json::value::RawValue;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Place in the log. Within a window, events are read in the order of this number.
    pub log_id: i64,
    /// Name for ever, unlike any other event's: see [`id`].
    pub id: String,
    /// Non-negative hash of tenant, entity and key, from which the shard follows.
    pub hash: u32,
    /// `schema.table`, or the name given to `observer.emit`.
    pub entity: Arc<str>,
    /// What happened.
    pub operation: Operation,
    /// Key of the row as text; a JSON array where it has several columns; absent for `Truncate`.
    pub key: Option<String>,
    /// Tenant, where the table was tracked with a tenant column.
    pub tenant: Option<String>,
    /// When the statement's transaction began.
    pub occurred_at: DateTime<Utc>,
    /// The row before, for `Update` and `Delete`.
    pub old: Option<Box<RawValue>>,
    /// The row after, for `Insert` and `Update`; the payload of a `Custom` event.
    pub new: Option<Box<RawValue>>,
}

/// The event's name for ever: `<log incarnation>-<log_id>-<microseconds since 1970 in hexadecimal>`.
///
/// The log's number alone would not do: its sequence goes back where a server loses commits that
/// it did not wait for, in a crash with `synchronous_commit = off` or by promoting a standby that was
/// behind, and receivers have seen events by then that are no more. The transaction that is given such
/// a number again began later, however. After a restore, `reset-position` renews it.
#[must_use]
pub fn id(incarnation: &str, log_id: i64, occurred_at: DateTime<Utc>) -> String {
    format!(
        "{incarnation}-{log_id}-{:x}",
        occurred_at.timestamp_micros()
    )
}

/// The same in SQL, of a row of the log.
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
    /// Only where it is one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replay: bool,
}

impl Event {
    /// The event as the body of a delivery by `action` of `observer`.
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

    /// Bytes of all that differs in length from one event to another.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let image = |image: &Option<Box<RawValue>>| text(image.as_deref().map(RawValue::get));
        let texts = text(self.key.as_deref()) + text(self.tenant.as_deref());
        (self.entity.len() + texts + image(&self.old) + image(&self.new)) as u64
    }

    /// Names of the fields that differ between the two images, in order; empty unless both are there.
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
