//! The value that Debezium's connector for Postgres writes, without its schema.
//!
//! Left out is what only the write-ahead log knows: `lsn`, `txId`, `xmin`, `sequence` and `transaction`.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use crds::config::Operation;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::delivery::{Delivery, entity};

/// A change of a row.
#[derive(Serialize)]
struct Change<'a> {
    before: Option<&'a RawValue>,
    after: Option<&'a RawValue>,
    source: Source<'a>,
    op: &'static str,
    ts_ms: i64,
}

/// A message, as `pg_logical_emit_message` writes one.
#[derive(Serialize)]
struct LogicalMessage<'a> {
    source: Source<'a>,
    message: MessageContent<'a>,
    op: &'static str,
    ts_ms: i64,
}

#[derive(Serialize)]
struct MessageContent<'a> {
    prefix: &'a str,
    /// In base64, as its bytes are.
    content: Option<String>,
}

#[derive(Serialize)]
struct Source<'a> {
    version: &'static str,
    connector: &'static str,
    name: &'a str,
    ts_ms: i64,
    snapshot: &'static str,
    schema: Cow<'a, str>,
    table: Cow<'a, str>,
}

/// Returns Debezium's code of an operation, and whether a snapshot read the row.
const fn code(operation: Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::Insert => ("c", "false"),
        Operation::Update => ("u", "false"),
        Operation::Delete => ("d", "false"),
        Operation::Truncate => ("t", "false"),
        Operation::Custom => ("m", "false"),
        // As of an incremental snapshot, which is beside the changes too.
        Operation::Read => ("r", "incremental"),
    }
}

/// Writes the value of a delivery that is attempted `now`.
pub(super) fn value(
    listener: &str,
    delivery: &Delivery,
    now: DateTime<Utc>,
) -> serde_json::Result<Vec<u8>> {
    let event = &delivery.event;
    let (op, snapshot) = code(event.operation);
    let is_message = event.operation == Operation::Custom;
    let (schema, table) = if is_message {
        Default::default()
    } else {
        let whole = || (Cow::default(), Cow::Borrowed(&*event.entity));
        entity::split(&event.entity).unwrap_or_else(whole)
    };
    let source = Source {
        version: env!("CARGO_PKG_VERSION"),
        connector: "postgresql",
        name: listener,
        ts_ms: event.occurred_at.timestamp_millis(),
        snapshot,
        schema,
        table,
    };
    let ts_ms = now.timestamp_millis();
    if is_message {
        let payload = event.new.as_deref();
        let message = MessageContent {
            prefix: &event.entity,
            content: payload.map(|payload| STANDARD.encode(payload.get())),
        };
        return serde_json::to_vec(&LogicalMessage {
            source,
            message,
            op,
            ts_ms,
        });
    }
    serde_json::to_vec(&Change {
        before: event.old.as_deref(),
        after: event.new.as_deref(),
        source,
        op,
        ts_ms,
    })
}
