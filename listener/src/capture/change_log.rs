//! Queries of the change log. None costs more for a longer backlog or an older open transaction.
//!
//! A window is read in two halves that share no row. The near half are transactions that
//! began after the window's first snapshot: their ids lie between its two bounds, in one
//! range. The far half are those that were in progress then and have ended since: they are
//! few, named by xid, and an index on (xid, id) leads straight to the next row of each.

use std::sync::Arc;

use crds::config::Operation;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, PgPool, Row};
use uuid::Uuid;

use super::backfilled;
use super::position::{LogBound, Window};
use super::snapshot::SnapshotError;
use crate::delivery::event::{
    self, Event, MAX_ENTITY_BYTES, MAX_EVENT_BYTES, MAX_KEY_BYTES, MAX_TENANT_BYTES, OversizedField,
};
use crate::trace::context::TraceContext;

/// Maximum number of events that a page scans for a process that owns all shards. One that owns
/// some scans more to find as many of its own, up to [`MAX_SCANNED`].
pub const PAGE_EVENTS: i64 = 512;

/// Maximum number of events that any page scans.
pub const MAX_SCANNED: i64 = 8 * PAGE_EVENTS;

/// A page ends with the event that takes it past this many bytes.
pub const PAGE_BYTES: i64 = 1 << 20;

/// The change log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database was not reachable, or refused.
    #[error("cannot read the log: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// The snapshot has a form that this program does not know.
    #[error("cannot read the log: {0}")]
    Snapshot(#[from] SnapshotError),
    /// No trigger of this program's version writes such a row.
    #[error(
        "event {id} of the log has the unknown operation `{operation}`: run `observer-listener migrate` with the newest version"
    )]
    Operation {
        /// Its id in the log.
        id: i64,
        /// The unknown code.
        operation: i8,
    },
}

impl ShardFilter<'_> {
    /// Returns the shard numbers to compare the remainders of hashes with.
    pub(crate) fn remainders(self) -> Vec<i32> {
        self.shards.iter().map(|shard| i32::from(*shard)).collect()
    }
}

/// The end of the change log, and whether the shards that it is read for are still owned.
#[derive(Debug)]
pub struct PollResult {
    /// The current bound.
    pub bound: LogBound,
    /// Of the given shards, those that another process has claimed since.
    pub fenced: Vec<u16>,
    /// Whether the server has not restarted after a crash since the shards were claimed.
    pub same_incarnation: bool,
}

/// Events of a window in id order; what is too large is left out of them.
#[derive(Debug)]
pub struct LogPage {
    /// The events of the given shards.
    pub events: Vec<ChangeRecord>,
    /// The id up to which the window is read; `None` where no event was left in it.
    pub reached: Option<i64>,
    /// Whether nothing of the window is left after it.
    pub last: bool,
}

/// Some of a listener's shards.
#[derive(Clone, Copy, Debug)]
pub struct ShardFilter<'a> {
    /// Their numbers, ascending.
    pub shards: &'a [u16],
    /// How many shards the listener has.
    pub shard_count: u16,
}

/// An event as the change log holds it.
#[derive(Debug)]
pub struct ChangeRecord {
    /// The event; without images, and without what is too long, where some of it is.
    pub event: Event,
    /// What of it is too large to be read.
    pub oversized: Option<OversizedField>,
    /// The transaction that wrote it.
    pub xid: u64,
    /// The only observer that it is for, if it was read by a backfill of one observer.
    pub only_for: Option<Arc<str>>,
}

/// The change log of one database.
#[derive(Clone, Debug)]
pub struct ChangeLog {
    pool: PgPool,
    id_prefix: Arc<str>,
}

/// As `observer.current_bound()` does, without a function's own settings. A statement's snapshot is taken
/// before it runs, and a sequence is read as it is then, so no event that the snapshot sees has a larger id.
/// Read by a select, a sequence may for a moment be 32 ahead; the function takes its lock.
const CURRENT_BOUND_SQL: &str = "
    select pg_current_snapshot()::text,
           case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    from observer.change_log_id";

/// The same, with the shards that are still owned under the given epochs.
const POLL_SQL: &str = "
    select pg_current_snapshot()::text,
           case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end,
           array(select c.shard from observer.checkpoint c
                 where c.listener = $1 and c.epoch = ($2::bigint[])[c.shard + 1]),
           exists (select from observer.server_incarnation where id = $3)
    from observer.change_log_id";

/// Shares one name among all events in a page that have it.
pub(super) fn intern(names: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| &***known == name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = Arc::from(name);
    names.push(Arc::clone(&name));
    name
}

impl ChangeLog {
    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), LogError> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Opens the change log, whose identity becomes the prefix of each event's id.
    pub async fn open(pool: PgPool) -> Result<Self, LogError> {
        Ok(Self {
            id_prefix: Arc::from(id_prefix(&pool).await?),
            pool,
        })
    }

    /// Returns the log's identity, with which the ids of its events begin.
    pub(crate) fn identity(&self) -> &str {
        &self.id_prefix
    }

    /// Returns the connections that it is read through.
    pub(crate) const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Returns the same log, read through other connections.
    #[must_use]
    pub fn with_pool(&self, pool: PgPool) -> Self {
        Self {
            pool,
            id_prefix: Arc::clone(&self.id_prefix),
        }
    }

    /// Reads the current bound, for a low watermark that is known, and checks which of these claims
    /// (shard and epoch) are lost and whether the server has restarted since they were made.
    pub async fn poll(
        &self,
        low_id: i64,
        listener: &str,
        server_incarnation: Uuid,
        claims: &[(u16, i64)],
    ) -> Result<PollResult, LogError> {
        let places = claims.iter().map(|(shard, _)| usize::from(*shard) + 1);
        let mut epochs = vec![None; places.max().unwrap_or(0)];
        for (shard, epoch) in claims {
            epochs[usize::from(*shard)] = Some(*epoch);
        }
        let row = sqlx::query(POLL_SQL)
            .bind(listener)
            .bind(epochs)
            .bind(server_incarnation)
            .fetch_one(&self.pool)
            .await?;
        let held: Vec<i16> = row.try_get(2)?;
        let shards = claims.iter().map(|(shard, _)| *shard);
        Ok(PollResult {
            bound: bound(&row, low_id)?,
            fenced: shards
                .filter(|shard| !held.contains(&smallint(*shard)))
                .collect(),
            same_incarnation: row.try_get(3)?,
        })
    }

    /// Returns a lower bound of the ids for snapshots that are taken after this call.
    pub async fn low_watermark(&self) -> Result<i64, LogError> {
        Ok(sqlx::query_scalar("select observer.low_watermark()")
            .fetch_one(&self.pool)
            .await?)
    }

    /// Reads the current bound.
    pub async fn current_bound(&self) -> Result<LogBound, LogError> {
        let low_id = self.low_watermark().await?;
        read_bound(&self.pool, low_id).await
    }

    /// Reads the next events of a window after an id, for some shards. Of what backfills have read, only that for
    /// the listener, and not what was older than an event before it.
    pub async fn read_page(
        &self,
        window: &Window,
        after: i64,
        filter: ShardFilter<'_>,
        listener: &str,
    ) -> Result<LogPage, LogError> {
        let (from, to) = (&window.from, &window.to);
        let ended: Vec<String> = to
            .snapshot
            .ended_since(&from.snapshot)
            .iter()
            .map(u64::to_string)
            .collect();
        let owned = i64::try_from(filter.shards.len())
            .unwrap_or(i64::MAX)
            .max(1);
        let scanned = (PAGE_EVENTS * i64::from(filter.shard_count) / owned).min(MAX_SCANNED);
        let rows = sqlx::query(READ_PAGE_SQL)
            .bind(after.max(from.low_id))
            .bind(to.high_id)
            .bind(from.snapshot.xmax().to_string())
            .bind(to.snapshot.xmax().to_string())
            .bind(to.snapshot.to_string())
            .bind(ended)
            .bind(after)
            .bind(scanned)
            .bind(PAGE_BYTES)
            .bind(MAX_EVENT_BYTES)
            .bind(i32::from(filter.shard_count))
            .bind(filter.remainders())
            .bind(MAX_ENTITY_BYTES)
            .bind(MAX_KEY_BYTES)
            .bind(MAX_TENANT_BYTES)
            .fetch_all(&self.pool)
            .await?;
        let mut names = Vec::new();
        let mut page = LogPage {
            events: Vec::with_capacity(rows.len()),
            reached: None,
            last: true,
        };
        for row in &rows {
            page.reached = row.try_get(11)?;
            page.last = row.try_get(12)?;
            // The one row of a page without events of these shards has nothing but these two.
            if row.try_get::<Option<i64>, _>(0)?.is_some() {
                page.events.push(self.event(row, &mut names)?);
            }
        }
        // They come in order, but nothing says so; the server would copy all of them to see to it.
        page.events
            .sort_unstable_by_key(|logged| logged.event.log_id);
        backfilled::keep_current(&self.pool, &mut page.events, listener).await?;
        Ok(page)
    }

    fn event(&self, row: &PgRow, names: &mut Vec<Arc<str>>) -> Result<ChangeRecord, LogError> {
        let log_id: i64 = row.try_get(0)?;
        let hash: i32 = row.try_get(1)?;
        let xid: &str = row.try_get(10)?;
        let occurred_at = row.try_get(7)?;
        let event = Event {
            log_id,
            id: event::id(&self.id_prefix, log_id, occurred_at),
            hash: hash.unsigned_abs(),
            entity: intern(names, row.try_get(4)?),
            operation: operation(log_id, row.try_get(3)?)?,
            key: row.try_get(5)?,
            tenant: row.try_get(6)?,
            occurred_at,
            old: image(row, 8)?,
            new: image(row, 9)?,
            trace: trace(row, 16)?,
        };
        Ok(ChangeRecord {
            event,
            oversized: oversized(row)?,
            xid: xid
                .parse()
                .map_err(|error| LogError::Database(sqlx::Error::Decode(Box::new(error))))?,
            only_for: None,
        })
    }
}

/// Reads the near half and the far half, both in id order, cut where the page is full. The images are
/// fetched only for rows that made it into the page, are of the given shards and are not too large in
/// any part, from where the first pass found them; how many rows are scanned to find them is bounded too. The last columns
/// are up to where the page goes and whether it ends the window, which a page that is full leaves to
/// the next one. Rows come in any order.
///
/// Bounds are computed once, as a parameter's cast would be computed again for each row.
const READ_PAGE_SQL: &str = "
    with near as (
        select id, partition_no, ctid, hash,
               size::bigint + octet_length(entity) + coalesce(octet_length(key), 0)
                   + coalesce(octet_length(tenant), 0) as bytes
        from observer.change_log
        where id > $1 and id <= $2
          and xid >= (select $3::xid8) and xid < (select $4::xid8)
          and pg_visible_in_snapshot(xid, (select $5::pg_snapshot))
        order by id limit $8
    ), far as (
        select row.id, row.partition_no, row.ctid, row.hash, row.bytes
        from unnest($6::xid8[]) as ended(xid)
        cross join lateral (
            select c.id, c.partition_no, c.ctid, c.hash,
                   c.size::bigint + octet_length(c.entity) + coalesce(octet_length(c.key), 0)
                       + coalesce(octet_length(c.tenant), 0) as bytes
            from observer.change_log c
            where c.xid >= ended.xid and c.xid <= ended.xid and (c.xid, c.id) > (ended.xid, $7)
            order by c.xid, c.id limit $8
        ) row
    ), looked_at as (
        select id, partition_no, ctid, asked_for,
               sum(case when asked_for then bytes else 0 end) over (order by id rows unbounded preceding)
                   - case when asked_for then bytes else 0 end as before
        from (
            select id, partition_no, ctid, bytes, hash % $11 = any($12) as asked_for
            from (select * from near union all select * from far order by id limit $8) halves
        ) halves
    ), page as (
        select id, partition_no, ctid, asked_for from looked_at where before < $9
    ), whole as (
        select max(id) as reached,
               count(*) < $8 and count(*) = (select count(*) from looked_at) as last
        from page
    ), found as (
        select c.*, octet_length(c.entity) as entity_bytes, coalesce(octet_length(c.key), 0) as key_bytes,
               coalesce(octet_length(c.tenant), 0) as tenant_bytes
        from page
        cross join lateral (
            select * from observer.change_log c where c.partition_no = page.partition_no and c.ctid = page.ctid
        ) c
        where page.asked_for
    ), judged as (
        select *, size <= $10 and entity_bytes <= $13 and key_bytes <= $14 and tenant_bytes <= $15 as fits
        from found
    )
    select c.id, c.hash, c.size, c.operation,
           -- one that is cut is no other's
           case when c.entity_bytes <= $13 then c.entity else left(c.entity, 60) || '…' end,
           case when c.key_bytes <= $14 then c.key end,
           case when c.tenant_bytes <= $15 then c.tenant end,
           c.occurred_at,
           case when c.fits then c.old end,
           case when c.fits then c.new end,
           c.xid::text, whole.reached, whole.last,
           c.entity_bytes, c.key_bytes, c.tenant_bytes, c.traceparent
    from whole left join judged c on true";

/// Converts a shard's number, or how many there are, to the type of the tables.
pub(crate) fn smallint(shard: u16) -> i16 {
    i16::try_from(shard).unwrap_or(i16::MAX)
}

/// Reads the current bound on the caller's connection.
pub(crate) async fn read_bound(by: impl PgExecutor<'_>, low_id: i64) -> Result<LogBound, LogError> {
    let row = sqlx::query(CURRENT_BOUND_SQL).fetch_one(by).await?;
    bound(&row, low_id)
}

fn bound(row: &PgRow, low_id: i64) -> Result<LogBound, LogError> {
    let snapshot: &str = row.try_get(0)?;
    Ok(LogBound {
        low_id,
        snapshot: snapshot.parse()?,
        high_id: row.try_get(1)?,
    })
}

pub(crate) fn operation(id: i64, code: i8) -> Result<Operation, LogError> {
    match u8::try_from(code) {
        Ok(b'i') => Ok(Operation::Insert),
        Ok(b'u') => Ok(Operation::Update),
        Ok(b'd') => Ok(Operation::Delete),
        Ok(b't') => Ok(Operation::Truncate),
        Ok(b'c') => Ok(Operation::Custom),
        Ok(b'r') => Ok(Operation::Read),
        _ => Err(LogError::Operation {
            id,
            operation: code,
        }),
    }
}

/// Returns the prefix of the ids of the log's events.
pub(crate) async fn id_prefix(pool: &PgPool) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select left(id::text, 8) from observer.log_identity")
        .fetch_one(pool)
        .await
}

/// Reads an image as raw text: `json` is sent as its text, and Postgres has checked it.
pub(crate) fn image(row: &PgRow, column: usize) -> Result<Option<Box<RawValue>>, LogError> {
    let text: Option<String> = row.try_get_unchecked(column)?;
    text.map(RawValue::from_string)
        .transpose()
        .map_err(|error| LogError::Database(sqlx::Error::Decode(error.into())))
}

/// Reads a trace context. Any other text than one says nothing.
pub(crate) fn trace(row: &PgRow, column: usize) -> Result<Option<TraceContext>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    Ok(text.and_then(TraceContext::parse))
}

/// Returns the first field of a page's row that is larger than allowed.
fn oversized(row: &PgRow) -> Result<Option<OversizedField>, sqlx::Error> {
    let over = |column: usize, most: i64| -> Result<Option<i32>, sqlx::Error> {
        let bytes: i32 = row.try_get(column)?;
        Ok((i64::from(bytes) > most).then_some(bytes))
    };
    let texts = over(13, MAX_ENTITY_BYTES.into())?
        .map(OversizedField::Entity)
        .or(over(14, MAX_KEY_BYTES.into())?.map(OversizedField::Key))
        .or(over(15, MAX_TENANT_BYTES.into())?.map(OversizedField::Tenant));
    Ok(texts.or(over(2, MAX_EVENT_BYTES)?.map(OversizedField::Images)))
}
