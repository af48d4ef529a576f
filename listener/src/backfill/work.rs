//! The work on backfills: who does it, and how far it is, which is saved in the transaction of each page. Writes
//! `observer.backfill_page`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use tokio::time::{Instant, sleep};

use super::store::{Backfill, COLUMNS, backfill};
use crate::database::interval;

/// While the listener is this many events behind, no page is read: the change log is not to grow without bound.
const MAX_BACKLOG: i64 = 200_000;

/// Pause while it is, and how long a process waits for one backfill.
const BACKLOG_PAUSE: Duration = Duration::from_millis(200);
const MAX_WAIT: Duration = Duration::from_secs(5);

/// By how many events the listener of `b` is behind the end of the log, about; null before it has positions.
const BACKLOG: &str = "
    select (select case when is_called then last_value else 0 end from observer.change_log_id)
        - min(case when c.window_snapshot is null then c.base_high_id else c.last_id end)
    from observer.checkpoint c where c.listener = b.listener";

/// Which backfills are worked on.
#[derive(Clone, Debug)]
pub(crate) enum PageScope {
    /// Those of a listener.
    Listener(String),
    /// Those of the listeners of a source.
    Source(String),
}

/// A backfill that this process works on.
#[derive(Clone, Debug)]
pub(crate) struct ClaimedBackfill {
    /// What was asked for.
    pub(crate) backfill: Backfill,
    /// Its listener.
    pub(crate) listener: String,
    /// What its writes carry.
    pub(crate) epoch: i64,
    /// Key of the last row in the log.
    pub(crate) last_key: Option<Vec<String>>,
    /// Columns of that key.
    pub(crate) key_columns: Option<Vec<String>>,
}

/// A page that is being written.
#[derive(Clone, Debug)]
pub(crate) struct PageProgress {
    /// Rows of the table, as the planner knows it.
    pub(crate) estimated_rows: i64,
    /// Columns of the key.
    pub(crate) key_columns: Vec<String>,
    /// Key of its last row; nothing if it has none.
    pub(crate) last_key: Option<Vec<String>>,
    /// Rows that were read.
    pub(crate) rows: i64,
    /// Whether there is no other page.
    pub(crate) is_last: bool,
}

impl ClaimedBackfill {
    /// Goes on after a page that is in the log.
    pub(crate) fn advance(&mut self, page: PageProgress) {
        self.last_key = page.last_key.or(self.last_key.take());
        self.key_columns = Some(page.key_columns);
    }
}

/// Backfills that a process works on.
#[derive(Clone, Debug)]
pub(crate) struct BackfillStore {
    pub(crate) pool: PgPool,
    scope: PageScope,
    holder: String,
    lease: Duration,
}

impl BackfillStore {
    /// Names the backfills, and this process for people.
    pub(crate) fn new(pool: PgPool, scope: PageScope, holder: String, lease: Duration) -> Self {
        Self {
            pool,
            scope,
            holder,
            lease,
        }
    }

    /// Claims the oldest one that is not over, unless another process works on it. One listener has one at a time, none
    /// before its shards have positions (what is read then lies after them), and none while it is far behind.
    pub(crate) async fn claim(&self) -> Result<Option<ClaimedBackfill>, sqlx::Error> {
        let (scope, name) = match &self.scope {
            PageScope::Listener(name) => ("b.listener = $1", name),
            PageScope::Source(name) => (
                "b.listener in (select unnest(s.listeners) from observer.source s where s.name = $1)",
                name,
            ),
        };
        let sql = format!(
            "update observer.backfill u
             set state = 'Running', epoch = epoch + 1, holder = $2, expires_at = clock_timestamp() + $3,
                 started_at = coalesce(started_at, clock_timestamp())
             where id = (
                 select b.id from observer.backfill b
                 where {scope} and b.state in ('Pending', 'Running')
                   and ({BACKLOG}) <= $4
                 order by b.id limit 1)
               and state in ('Pending', 'Running')
               and (holder = $2 or expires_at < clock_timestamp() or state = 'Pending')
             returning {COLUMNS}"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(name)
            .bind(&self.holder)
            .bind(interval(self.lease))
            .bind(MAX_BACKLOG)
            .fetch_optional(&self.pool)
            .await?;
        let claimed = |row: &PgRow| -> Result<ClaimedBackfill, sqlx::Error> {
            Ok(ClaimedBackfill {
                backfill: backfill(row)?,
                last_key: row.try_get(12)?,
                epoch: row.try_get(13)?,
                listener: row.try_get(14)?,
                key_columns: row.try_get(15)?,
            })
        };
        row.as_ref().map(claimed).transpose()
    }

    /// Ends one that a person has to see to.
    pub(crate) async fn fail(
        &self,
        claimed: &ClaimedBackfill,
        why: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update observer.backfill set state = 'Failed', error = $3, finished_at = clock_timestamp()
             where id = $1 and epoch = $2 and state = 'Running'",
        )
        .bind(claimed.backfill.id)
        .bind(claimed.epoch)
        .bind(why)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Renews the lease of one while it waits. Returns whether it is still this process's.
    pub(crate) async fn renew(&self, claimed: &ClaimedBackfill) -> Result<bool, sqlx::Error> {
        let renewed = sqlx::query(
            "update observer.backfill set expires_at = clock_timestamp() + $3
             where id = $1 and epoch = $2 and state = 'Running'",
        )
        .bind(claimed.backfill.id)
        .bind(claimed.epoch)
        .bind(interval(self.lease))
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() > 0)
    }

    /// Names the transaction as that of a page, and returns its xid and when it began. With a low id, its rows are compared with what its
    /// snapshot has not seen, by these columns where rows share a key.
    pub(crate) async fn begin_page(
        connection: &mut PgConnection,
        claimed: &ClaimedBackfill,
        compared: Option<(i64, Option<Vec<String>>)>,
    ) -> Result<(String, DateTime<Utc>), sqlx::Error> {
        let (low_id, row_columns) = match compared {
            Some((low_id, row_columns)) => (Some(low_id), row_columns),
            None => (None, None),
        };
        sqlx::query_as(
            "insert into observer.backfill_page (xid, listener, observer, snapshot, low_id, row_columns)
             values (pg_current_xact_id(), $1, $2, case when $3::bigint is not null then pg_current_snapshot() end, $3,
                 $4)
             returning xid::text, transaction_timestamp()",
        )
        .bind(&claimed.listener)
        .bind(&claimed.backfill.observer)
        .bind(low_id)
        .bind(row_columns)
        .fetch_one(connection)
        .await
    }

    /// Moves a backfill on, in the transaction of its page. Returns false if it is not this process's any more, or over:
    /// then nothing may be committed.
    pub(crate) async fn finish_page(
        &self,
        connection: &mut PgConnection,
        claimed: &ClaimedBackfill,
        page: &PageProgress,
    ) -> Result<bool, sqlx::Error> {
        let moved = sqlx::query(
            "update observer.backfill
             set key_columns = $7, last_key = coalesce($3, last_key), rows_read = rows_read + $4,
                 estimated_rows = coalesce(estimated_rows, $8),
                 expires_at = clock_timestamp() + $5,
                 state = case when $6 then 'Completed' else state end,
                 finished_at = case when $6 then clock_timestamp() end
             where id = $1 and epoch = $2 and state = 'Running'",
        )
        .bind(claimed.backfill.id)
        .bind(claimed.epoch)
        .bind(&page.last_key)
        .bind(page.rows)
        .bind(interval(self.lease))
        .bind(page.is_last)
        .bind(&page.key_columns)
        .bind(page.estimated_rows)
        .execute(connection)
        .await?;
        Ok(moved.rows_affected() > 0)
    }

    /// Waits until the listener is not too far behind. Returns false if the backfill is not this process's any more:
    /// after a while it is left to the next process, since other listeners may have some too.
    pub(crate) async fn wait_for_room(
        &self,
        claimed: &ClaimedBackfill,
    ) -> Result<bool, sqlx::Error> {
        let sql = format!("select ({BACKLOG}) <= $2 from (select $1 as listener) b");
        let begun = Instant::now();
        loop {
            let has_room: Option<bool> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.clone()))
                .bind(&claimed.listener)
                .bind(MAX_BACKLOG)
                .fetch_one(&self.pool)
                .await?;
            if has_room == Some(true) {
                return Ok(true);
            }
            if begun.elapsed() >= MAX_WAIT {
                self.leave(claimed).await?;
                return Ok(false);
            }
            if !self.renew(claimed).await? {
                return Ok(false);
            }
            sleep(BACKLOG_PAUSE).await;
        }
    }

    async fn leave(&self, claimed: &ClaimedBackfill) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update observer.backfill set state = 'Pending', holder = '', expires_at = '-infinity'
             where id = $1 and epoch = $2 and state = 'Running'",
        )
        .bind(claimed.backfill.id)
        .bind(claimed.epoch)
        .execute(&self.pool)
        .await
        .map(drop)
    }
}
