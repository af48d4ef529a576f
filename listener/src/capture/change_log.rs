//! The log's queries. None costs more for a longer backlog or an older open transaction.
//!
//! A window is read in two halves that share no row. The near half are transactions that
//! began after the window's first snapshot: their ids lie between its two marks, in one
//! stretch. The far half are those that were in progress then and have ended since: they are
//! few, named by xid, and an index on (xid, id) leads straight to the next row of each.

use std::sync::Arc;

use crds::config::Operation;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, PgPool, Row};
use uuid::Uuid;

use super::excess::{
    Excess, MAX_ENTITY_BYTES, MAX_EVENT_BYTES, MAX_KEY_BYTES, MAX_TENANT_BYTES, excess,
};
use super::position::{Mark, Window};
use super::snapshot::SnapshotError;
use crate::delivery::event::{self, Event};

/// Most events that a page looks at for a process that owns all shards. One that owns a part looks
/// at more to find as many of its own, up to [`MOST_LOOKED_AT`].
pub const PAGE_EVENTS: i64 = 512;

/// Most events that any page looks at.
pub const MOST_LOOKED_AT: i64 = 8 * PAGE_EVENTS;

/// A page ends with the event that takes it past this many bytes.
pub const PAGE_BYTES: i64 = 1 << 20;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database could not be asked, or said no.
    #[error("cannot read the log: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// A snapshot of a form that this program does not know.
    #[error("cannot read the log: {0}")]
    Snapshot(#[from] SnapshotError),
    /// A row that no trigger of this program's version writes.
    #[error(
        "event {id} of the log has the unknown operation `{operation}`: run `observer-listener migrate` with the newest version"
    )]
    Operation {
        /// Its id in the log.
        id: i64,
        /// What stands there.
        operation: i8,
    },
}

impl Part<'_> {
    /// The numbers to compare a hash's remainder with.
    pub(crate) fn remainders(self) -> Vec<i32> {
        self.shards.iter().map(|shard| i32::from(*shard)).collect()
    }
}

/// A look at the log's end.
#[derive(Debug)]
pub struct Look {
    /// The mark of this moment.
    pub mark: Mark,
    /// Of the shards asked about, those that another process has claimed since.
    pub fenced: Vec<u16>,
    /// Whether the server lives the same life as when the shards were claimed.
    pub alive: bool,
}

/// Events of a window in id order, with what is left out for its size.
#[derive(Debug)]
pub struct Page {
    /// The events of the shards asked for.
    pub events: Vec<Logged>,
    /// The window is read up to this id; nothing where no event was left in it.
    pub reached: Option<i64>,
    /// Whether nothing of the window is left after it.
    pub last: bool,
}

/// A part of a listener's shards.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Their numbers, ascending.
    pub shards: &'a [u16],
    /// How many shards the listener has.
    pub of: u16,
}

/// An event as the log holds it.
#[derive(Debug)]
pub struct Logged {
    /// The event; without images, and without what is too long, where some of it is.
    pub event: Event,
    /// What of it is too long for it to be read.
    pub excess: Option<Excess>,
    /// The transaction that wrote it.
    pub xid: u64,
}

/// The log of one database.
#[derive(Clone, Debug)]
pub struct Log {
    pool: PgPool,
    incarnation: Arc<str>,
}

/// As `observer.current_bound()` does, without a function's own settings. A statement's snapshot is taken
/// before it runs, and a sequence is read as it is then, so no event that the snapshot sees has a larger id.
/// Read by a select, a sequence may for a moment be 32 ahead; the function takes its lock.
const MARK: &str = "
    select pg_current_snapshot()::text,
           case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    from observer.change_log_id";

/// The same, with the shards that are held by the epoch at their place among those given.
const LOOK: &str = "
    select pg_current_snapshot()::text,
           case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end,
           array(select c.shard from observer.checkpoint c
                 where c.listener = $1 and c.epoch = ($2::bigint[])[c.shard + 1]),
           exists (select from observer.server_incarnation where id = $3)
    from observer.change_log_id";

/// Names the entity once for all its events in a page.
fn intern(names: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.iter().find(|known| &***known == name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = Arc::from(name);
    names.push(Arc::clone(&name));
    name
}

impl Log {
    /// Finds out whether the database answers.
    pub async fn look_for_database(&self) -> Result<(), LogError> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Opens the log, whose name becomes the beginning of each event's id.
    pub async fn open(pool: PgPool) -> Result<Self, LogError> {
        let id: String = sqlx::query_scalar("select left(id::text, 8) from observer.log_identity")
            .fetch_one(&pool)
            .await?;
        Ok(Self {
            pool,
            incarnation: Arc::from(id),
        })
    }

    /// Takes a mark above `floor`, and sees which of these claims, of shard and epoch each, hold no
    /// longer, and whether the server still lives the life in which they were made.
    pub async fn look(
        &self,
        floor: i64,
        listener: &str,
        life: Uuid,
        claims: &[(u16, i64)],
    ) -> Result<Look, LogError> {
        let places = claims.iter().map(|(shard, _)| usize::from(*shard) + 1);
        let mut epochs = vec![None; places.max().unwrap_or(0)];
        for (shard, epoch) in claims {
            epochs[usize::from(*shard)] = Some(*epoch);
        }
        let row = sqlx::query(LOOK)
            .bind(listener)
            .bind(epochs)
            .bind(life)
            .fetch_one(&self.pool)
            .await?;
        let held: Vec<i16> = row.try_get(2)?;
        let shards = claims.iter().map(|(shard, _)| *shard);
        Ok(Look {
            mark: mark(&row, floor)?,
            fenced: shards
                .filter(|shard| !held.contains(&smallint(*shard)))
                .collect(),
            alive: row.try_get(3)?,
        })
    }

    /// A floor for marks that are taken after this call.
    pub async fn floor(&self) -> Result<i64, LogError> {
        Ok(sqlx::query_scalar("select observer.low_watermark()")
            .fetch_one(&self.pool)
            .await?)
    }

    /// Takes a mark.
    pub async fn mark(&self) -> Result<Mark, LogError> {
        let floor = self.floor().await?;
        mark_by(&self.pool, floor).await
    }

    /// Reads the events of a window that come after an id and are of some shards.
    pub async fn page(
        &self,
        window: &Window,
        after: i64,
        part: Part<'_>,
    ) -> Result<Page, LogError> {
        let (from, to) = (&window.from, &window.to);
        let ended: Vec<String> = to
            .snapshot
            .ended_since(&from.snapshot)
            .iter()
            .map(u64::to_string)
            .collect();
        let owned = i64::try_from(part.shards.len()).unwrap_or(i64::MAX).max(1);
        let looked_at = (PAGE_EVENTS * i64::from(part.of) / owned).min(MOST_LOOKED_AT);
        let rows = sqlx::query(PAGE)
            .bind(after.max(from.floor))
            .bind(to.ceiling)
            .bind(from.snapshot.xmax().to_string())
            .bind(to.snapshot.xmax().to_string())
            .bind(to.snapshot.to_string())
            .bind(ended)
            .bind(after)
            .bind(looked_at)
            .bind(PAGE_BYTES)
            .bind(MAX_EVENT_BYTES)
            .bind(i32::from(part.of))
            .bind(part.remainders())
            .bind(MAX_ENTITY_BYTES)
            .bind(MAX_KEY_BYTES)
            .bind(MAX_TENANT_BYTES)
            .fetch_all(&self.pool)
            .await?;
        let mut names = Vec::new();
        let mut page = Page {
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
        Ok(page)
    }

    fn event(&self, row: &PgRow, names: &mut Vec<Arc<str>>) -> Result<Logged, LogError> {
        let log_id: i64 = row.try_get(0)?;
        let hash: i32 = row.try_get(1)?;
        let xid: &str = row.try_get(10)?;
        let occurred_at = row.try_get(7)?;
        let event = Event {
            log_id,
            id: event::id(&self.incarnation, log_id, occurred_at),
            hash: hash.unsigned_abs(),
            entity: intern(names, row.try_get(4)?),
            operation: operation(log_id, row.try_get(3)?)?,
            key: row.try_get(5)?,
            tenant: row.try_get(6)?,
            occurred_at,
            old: image(row, 8)?,
            new: image(row, 9)?,
        };
        Ok(Logged {
            event,
            excess: excess(row)?,
            xid: xid
                .parse()
                .map_err(|error| LogError::Database(sqlx::Error::Decode(Box::new(error))))?,
        })
    }
}

/// The near half, the far half, both in id order, cut where the page is full. The images are
/// fetched only for rows that made it into the page, are of the shards asked for and are not too long in
/// any part, from where the first pass found them; how many rows are looked at to find them is bounded too. The last columns
/// are up to where the page goes and whether it ends the window, which a page that is full leaves to
/// the next one. Rows come in any order.
///
/// Bounds are computed once, as a parameter's cast would be anew for each row.
const PAGE: &str = "
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
           c.entity_bytes, c.key_bytes, c.tenant_bytes
    from whole left join judged c on true";

/// A shard's number, or how many there are, as the tables hold it.
pub(crate) fn smallint(shard: u16) -> i16 {
    i16::try_from(shard).unwrap_or(i16::MAX)
}

/// Takes a mark above `floor` by a connection of the caller's.
pub(crate) async fn mark_by(by: impl PgExecutor<'_>, floor: i64) -> Result<Mark, LogError> {
    let row = sqlx::query(MARK).fetch_one(by).await?;
    mark(&row, floor)
}

fn mark(row: &PgRow, floor: i64) -> Result<Mark, LogError> {
    let snapshot: &str = row.try_get(0)?;
    Ok(Mark {
        floor,
        snapshot: snapshot.parse()?,
        ceiling: row.try_get(1)?,
    })
}

pub(crate) fn operation(id: i64, code: i8) -> Result<Operation, LogError> {
    match u8::try_from(code) {
        Ok(b'i') => Ok(Operation::Insert),
        Ok(b'u') => Ok(Operation::Update),
        Ok(b'd') => Ok(Operation::Delete),
        Ok(b't') => Ok(Operation::Truncate),
        Ok(b'c') => Ok(Operation::Custom),
        _ => Err(LogError::Operation {
            id,
            operation: code,
        }),
    }
}

/// An image as it stands: `json` is sent as its text, and Postgres has checked it.
fn image(row: &PgRow, column: usize) -> Result<Option<Box<RawValue>>, LogError> {
    let text: Option<String> = row.try_get_unchecked(column)?;
    text.map(RawValue::from_string)
        .transpose()
        .map_err(|error| LogError::Database(sqlx::Error::Decode(error.into())))
}
