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
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::position::{Mark, Window};
use super::snapshot::SnapshotError;
use crate::event::Event;

/// Most events in a page.
pub const PAGE_EVENTS: i64 = 512;

/// A page ends with the event that takes its images past this many bytes.
pub const PAGE_BYTES: i64 = 1 << 20;

/// Images larger than this many bytes are not read; their event is set aside.
pub const MAX_EVENT_BYTES: i64 = 16 << 20;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database could not be asked, or said no.
    #[error("cannot read the log: {0}")]
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

/// A look at the log's end.
#[derive(Debug)]
pub struct Look {
    /// The mark of this moment.
    pub mark: Mark,
    /// Whether the checkpoints still name this holder for every one of its shards.
    pub owned: bool,
    /// Whether the server lives the same life as when the shards were claimed.
    pub alive: bool,
}

/// Events of a window in id order, with what is left out for its size.
#[derive(Debug)]
pub struct Page {
    /// The events.
    pub events: Vec<Logged>,
    /// Whether nothing of the window is left after them.
    pub last: bool,
}

/// An event as the log holds it.
#[derive(Debug)]
pub struct Logged {
    /// The event; without images where they are too large.
    pub event: Event,
    /// Bytes of both images in the log, also where they were not read.
    pub size: u64,
}

impl Logged {
    /// Whether the images were left out because of [`MAX_EVENT_BYTES`].
    #[must_use]
    pub fn oversized(&self) -> bool {
        self.size > MAX_EVENT_BYTES.unsigned_abs()
    }
}

/// By what right a process reads a listener's shards.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// The listener.
    pub listener: Arc<str>,
    /// Unique to this start of this process; named by the checkpoints that it has claimed.
    pub holder: Arc<str>,
    /// The server's life in which they were claimed.
    pub life: Uuid,
    /// How many shards.
    pub shards: usize,
}

/// The log of one database.
#[derive(Clone, Debug)]
pub struct Log {
    pool: PgPool,
    incarnation: Arc<str>,
}

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
    /// Opens the log, whose name becomes the beginning of each event's id.
    pub async fn open(pool: PgPool) -> Result<Self, LogError> {
        let id: String = sqlx::query_scalar("select left(id::text, 8) from observer.incarnation")
            .fetch_one(&pool)
            .await?;
        Ok(Self {
            pool,
            incarnation: Arc::from(id),
        })
    }

    /// Takes a mark above `floor`, and sees whether `claim` still holds.
    pub async fn look(&self, floor: i64, claim: &Tenure) -> Result<Look, LogError> {
        let row = sqlx::query(
            "select m.snapshot::text, m.ceiling,
                    (select count(*) from observer.checkpoint where listener = $1 and holder = $2),
                    exists (select from observer.life where id = $3)
             from observer.mark() m",
        )
        .bind(&*claim.listener)
        .bind(&*claim.holder)
        .bind(claim.life)
        .fetch_one(&self.pool)
        .await?;
        let held: i64 = row.try_get(2)?;
        Ok(Look {
            mark: mark(&row, floor)?,
            owned: usize::try_from(held).is_ok_and(|held| held == claim.shards),
            alive: row.try_get(3)?,
        })
    }

    /// A floor for marks that are taken after this call.
    pub async fn floor(&self) -> Result<i64, LogError> {
        Ok(sqlx::query_scalar("select observer.floor()")
            .fetch_one(&self.pool)
            .await?)
    }

    /// Takes a mark.
    pub async fn mark(&self) -> Result<Mark, LogError> {
        let floor = self.floor().await?;
        let row = sqlx::query("select m.snapshot::text, m.ceiling from observer.mark() m")
            .fetch_one(&self.pool)
            .await?;
        mark(&row, floor)
    }

    /// Reads the events of a window that come after an id.
    pub async fn page(&self, window: &Window, after: i64) -> Result<Page, LogError> {
        let (from, to) = (&window.from, &window.to);
        let ended: Vec<String> = to
            .snapshot
            .ended_since(&from.snapshot)
            .iter()
            .map(u64::to_string)
            .collect();
        let rows = sqlx::query(PAGE)
            .bind(after.max(from.floor))
            .bind(to.ceiling)
            .bind(from.snapshot.xmax().to_string())
            .bind(to.snapshot.xmax().to_string())
            .bind(to.snapshot.to_string())
            .bind(ended)
            .bind(after)
            .bind(PAGE_EVENTS)
            .bind(PAGE_BYTES)
            .bind(MAX_EVENT_BYTES)
            .fetch_all(&self.pool)
            .await?;
        let mut names = Vec::new();
        let mut events = Vec::with_capacity(rows.len());
        let mut last = true;
        for row in &rows {
            last = row.try_get(10)?;
            events.push(self.event(row, &mut names)?);
        }
        Ok(Page { events, last })
    }

    fn event(&self, row: &PgRow, names: &mut Vec<Arc<str>>) -> Result<Logged, LogError> {
        let log_id: i64 = row.try_get(0)?;
        let hash: i32 = row.try_get(1)?;
        let size: i32 = row.try_get(2)?;
        let event = Event {
            log_id,
            id: format!("{}-{log_id}", self.incarnation),
            hash: hash.unsigned_abs(),
            entity: intern(names, row.try_get(4)?),
            operation: operation(log_id, row.try_get(3)?)?,
            key: row.try_get(5)?,
            tenant: row.try_get(6)?,
            occurred_at: row.try_get(7)?,
            old: image(row, 8)?,
            new: image(row, 9)?,
        };
        Ok(Logged {
            event,
            size: u64::from(size.unsigned_abs()),
        })
    }
}

/// The near half, the far half, both in id order, cut where the page is full. The images are
/// fetched only for rows that made it into the page. The last column is whether the page ends the window.
const PAGE: &str = "
    with near as (
        select id, slot, size from observer.change_log
        where id > $1 and id <= $2
          and xid >= $3::xid8 and xid < $4::xid8 and pg_visible_in_snapshot(xid, $5::pg_snapshot)
        order by id limit $8 + 1
    ), far as (
        select row.id, row.slot, row.size
        from unnest($6::xid8[]) as ended(xid)
        cross join lateral (
            select c.id, c.slot, c.size from observer.change_log c
            where c.xid >= ended.xid and c.xid <= ended.xid and (c.xid, c.id) > (ended.xid, $7)
            order by c.xid, c.id limit $8 + 1
        ) row
    ), both_halves as (
        select id, slot, sum(size::bigint) over (order by id) - size as before, row_number() over (order by id) as place
        from (select * from near union all select * from far order by id limit $8 + 1) halves
    ), page as (
        select id, slot, (select count(*) from both_halves) as found
        from both_halves where before < $9 and place <= $8
    )
    select c.id, c.hash, c.size, c.operation, c.entity, c.key, c.tenant, c.occurred_at,
           case when c.size <= $10 then c.old::text end,
           case when c.size <= $10 then c.new::text end,
           page.found = (select count(*) from page)
    from page
    cross join lateral (select * from observer.change_log c where c.slot = page.slot and c.id = page.id limit 1) c
    order by c.id";

fn mark(row: &PgRow, floor: i64) -> Result<Mark, LogError> {
    let snapshot: &str = row.try_get(0)?;
    Ok(Mark {
        floor,
        snapshot: snapshot.parse()?,
        ceiling: row.try_get(1)?,
    })
}

fn operation(id: i64, code: i8) -> Result<Operation, LogError> {
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

/// An image as it stands. Postgres has checked that it is JSON.
fn image(row: &PgRow, column: usize) -> Result<Option<Box<RawValue>>, LogError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(RawValue::from_string)
        .transpose()
        .map_err(|error| LogError::Database(sqlx::Error::Decode(error.into())))
}
