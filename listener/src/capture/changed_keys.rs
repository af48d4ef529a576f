//! Reads of the change log which rows of some entities have changed, of all shards and without a claim on any.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::change_log::{ChangeLog, LogError};
use super::position::{LogBound, Window};
use super::snapshot::Snapshot;
use super::tail::read_incarnation;

/// Ids that are scanned once more at most before the lower bound is read anew.
const MAX_RESCANNED: i64 = 2000;

/// Most different keys of one read.
pub(crate) const MAX_KEYS: usize = 10_000;

/// Longest key that is returned, in bytes; of a longer one only that a row has changed.
pub(crate) const MAX_KEY_BYTES: u16 = 512;

/// Most ends of snapshots that are remembered: those of half the time that the log keeps events.
const MAX_ENDS: usize = 5;

/// As the log's own pages: the near half by id, and those in progress before which have ended since.
const CHANGED_SQL: &str = "
    with near as (
        select entity, key from observer.change_log
        where id > $1 and id <= $2
          and xid >= (select $3::xid8) and xid < (select $4::xid8)
          and pg_visible_in_snapshot(xid, (select $5::pg_snapshot))
          and entity = any($7) and operation <> 'r'
    ), far as (
        select c.entity, c.key
        from unnest($6::xid8[]) as ended(xid)
        cross join lateral (
            select entity, key from observer.change_log c
            where c.xid >= ended.xid and c.xid <= ended.xid and c.entity = any($7)
              and c.operation <> 'r'
        ) c
    )
    select distinct entity, case when octet_length(key) <= $8 then key end
    from (select * from near union all select * from far) changed
    limit $9";

/// Where to read which rows have changed.
#[derive(Debug)]
pub(crate) struct ChangedKeys {
    log: ChangeLog,
    listener: Arc<str>,
    incarnation: Uuid,
    seen: LogBound,
    /// How long the log keeps what every listener has behind it.
    retention: Duration,
    /// Ends of the snapshots of a while ago, the oldest first.
    ends: VecDeque<(Instant, u64)>,
}

/// What has changed since the read before.
#[derive(Debug)]
pub(crate) enum ChangedRows {
    /// Entities with the keys of their rows; of any row where there is none.
    Keys(Vec<(String, Option<String>)>),
    /// More than [`MAX_KEYS`], or perhaps what the log does not keep any more.
    Unknown,
    /// The server has restarted after a crash: positions of before say nothing any more.
    Lost,
}

impl ChangedKeys {
    /// Begins with what is committed from now on; nothing where no listener has named this life of the server
    /// yet.
    pub(crate) async fn open(
        pool: PgPool,
        listener: Arc<str>,
        retention: Duration,
    ) -> Result<Option<Self>, LogError> {
        let Some(incarnation) = read_incarnation(&pool).await? else {
            return Ok(None);
        };
        let log = ChangeLog::open(pool).await?;
        let seen = log.current_bound().await?;
        // How old the transactions are that are in progress now is not known.
        let ends = VecDeque::from([(Instant::now() - retention, seen.snapshot.xmax())]);
        Ok(Some(Self {
            log,
            listener,
            incarnation,
            seen,
            retention,
            ends,
        }))
    }

    /// Returns the name of this life of the log: its identity, which a reset of positions after a restore
    /// renews, and that of the server, which a crash does.
    pub(crate) fn life(&self) -> Arc<str> {
        Arc::from(format!("{}/{}", self.log.identity(), self.incarnation))
    }

    /// Returns the snapshot up to which it has read.
    pub(crate) const fn seen(&self) -> &Snapshot {
        &self.seen.snapshot
    }

    /// Reads what has changed in these entities up to now.
    pub(crate) async fn read_next(&mut self, entities: &[String]) -> Result<ChangedRows, LogError> {
        let mut low_id = self.seen.low_id;
        if self.seen.high_id - low_id > MAX_RESCANNED {
            low_id = self.log.low_watermark().await?;
        }
        let polled = self.log.poll(low_id, &self.listener, self.incarnation, &[]);
        let polled = polled.await?;
        if !polled.same_incarnation || !polled.bound.covers(&self.seen) {
            return Ok(ChangedRows::Lost);
        }
        let window = Window {
            from: Arc::new(self.seen.clone()),
            to: Arc::new(polled.bound),
        };
        let is_kept = self.is_kept(&window);
        let mut changed = Vec::new();
        if !entities.is_empty() && window.may_hold_events() {
            changed = self.changed(&window, entities).await?;
        }
        self.seen = (*window.to).clone();
        self.note_end();
        if changed.len() > MAX_KEYS || !is_kept {
            return Ok(ChangedRows::Unknown);
        }
        Ok(ChangedRows::Keys(changed))
    }

    /// Returns whether the log certainly keeps all that is in a window. An event's time is that when its
    /// transaction began, so one of a transaction that took long may be removed once it is delivered.
    fn is_kept(&self, window: &Window) -> bool {
        let ended = window.to.snapshot.ended_since(&window.from.snapshot);
        let old = self
            .ends
            .iter()
            .filter(|(at, _)| at.elapsed() >= self.retention / 4);
        let old = old.map(|(_, xmax)| *xmax).max().unwrap_or(0);
        ended.iter().all(|xid| *xid >= old)
    }

    /// Remembers the end of the last snapshot, if it is time to.
    fn note_end(&mut self) {
        let step = self.retention / 8;
        if self.ends.back().is_none_or(|(at, _)| at.elapsed() >= step) {
            self.ends
                .push_back((Instant::now(), self.seen.snapshot.xmax()));
        }
        while self.ends.len() > MAX_ENDS {
            self.ends.pop_front();
        }
    }

    async fn changed(
        &self,
        window: &Window,
        entities: &[String],
    ) -> Result<Vec<(String, Option<String>)>, LogError> {
        let (from, to) = (&window.from, &window.to);
        let ended = to.snapshot.ended_since(&from.snapshot);
        let rows = sqlx::query(CHANGED_SQL)
            .bind(from.low_id)
            .bind(to.high_id)
            .bind(from.snapshot.xmax().to_string())
            .bind(to.snapshot.xmax().to_string())
            .bind(to.snapshot.to_string())
            .bind(ended.iter().map(u64::to_string).collect::<Vec<_>>())
            .bind(entities)
            .bind(i32::from(MAX_KEY_BYTES))
            .bind(i64::try_from(MAX_KEYS).unwrap_or(i64::MAX) + 1)
            .fetch_all(self.log.pool())
            .await?;
        let both = |row: &sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(both).collect()
    }
}
