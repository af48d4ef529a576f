//! Past events that a replay would read, the newest first.

use sqlx::{PgPool, Row};

use super::events::{EventsError, event};
use crate::capture::change_log::id_prefix;
use crate::dead_letters::replay::{MATCHES, ReplaySelection, bind};
use crate::delivery::event::{Event, ID_SQL};

/// A page ends with the event that takes it past this many bytes of images.
const PAGE_BYTES: i64 = 8 * 1024 * 1024;

/// A past event.
#[derive(Debug)]
pub struct PastEvent {
    /// The event.
    pub event: Event,
    /// Number of its deliveries by the actions of the selection that are dead letters, or are to be replayed
    /// already.
    pub kept: u64,
}

/// Returns the newest events of a selection whose ids come before `before`, at most `limit`, and none only
/// where none is left.
pub async fn newest(
    pool: &PgPool,
    selection: &ReplaySelection,
    before: i64,
    limit: i64,
) -> Result<Vec<PastEvent>, EventsError> {
    let sql = format!(
        "select id, hash, operation, entity, key, tenant, occurred_at, old::text, new::text, traceparent,
                (select count(*) from observer.dead_letter d
                 where d.listener = $10 and d.event_id = {ID_SQL} and d.observer = $11 and d.action = any ($12))
         from (select *, sum(size::bigint) over (order by id desc rows unbounded preceding) - size as bytes_before
               from (select c.* from observer.change_log c where {MATCHES} and c.id < $7
                     order by c.id desc limit $8) newest) past
         where bytes_before < $9
         order by id desc"
    );
    let rows = bind(&sql, selection)
        .bind(before)
        .bind(limit)
        .bind(PAGE_BYTES)
        .bind(&selection.listener)
        .bind(&selection.observer)
        .bind(&selection.actions)
        .fetch_all(pool)
        .await?;
    let log = id_prefix(pool).await?;
    let past = rows.iter().map(|row| {
        let kept: i64 = row.try_get(10)?;
        Ok(PastEvent {
            event: event(&log, row)?,
            kept: kept.unsigned_abs(),
        })
    });
    past.collect()
}
