//! Pages of backfills, read from the source's database while its write-ahead log is read.

use std::sync::Arc;
use std::time::Duration;

use backoff::Backoff;
use chrono::{DateTime, Utc};
use crds::config::WalSourceConfig;
use futures::TryStreamExt as _;
use pgoutput::{Column, Identity, Relation, Value};
use pgwire_replication::Lsn;
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::catalog::Catalog;
use super::connection::catalog_pool;
use super::error::IngestError;
use super::rows::LogRow;
use super::table_plan::TablePlan;
use crate::backfill::{
    BackfillStore, ClaimedBackfill, KeyedTable, LOOK_INTERVAL, PageArrivals, PageError, PagePace,
    PageProgress, begin_read,
};
use crate::capture::snapshot::Snapshot;
use crate::telemetry::backfill_metrics::BackfillMetrics;

/// Pause before a page is read again whose snapshot did not see what was read before it.
const UNSEEN_PAUSE: Duration = Duration::from_millis(200);

/// Longest time from when a commit is on the disk until it is seen, if it waits for nothing.
const SEEN_AT_ONCE: Duration = Duration::from_secs(2);

/// Backoff of pages that cannot be read.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Bytes of a page's texts after which it ends: they wait in memory.
const MAX_BYTES: usize = 16 << 20;

/// A page of rows that waits to be appended.
#[derive(Debug)]
pub(crate) struct Page {
    /// The backfill.
    pub(crate) claimed: ClaimedBackfill,
    /// What it has seen.
    pub(crate) snapshot: Snapshot,
    /// All that it has seen was written before this.
    pub(crate) end: Lsn,
    /// Its rows.
    pub(crate) rows: Vec<LogRow>,
    /// The backfill after it.
    pub(crate) progress: PageProgress,
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageEnd {
    /// It is in the log.
    Appended,
    /// It is to be read again.
    Discarded,
    /// The backfill is not this process's any more, or over.
    Over,
}

/// What is asked of the reader of the log.
#[derive(Debug)]
pub(crate) enum PageRequest {
    /// To take note of changes of this table from now on, by these columns where rows share a key.
    Begin(Arc<str>, Option<Vec<String>>, oneshot::Sender<()>),
    /// To append a page when it has read so far.
    Append(Box<Page>, oneshot::Sender<PageEnd>),
}

/// Reads pages of the backfills of a source.
#[derive(Debug)]
pub(crate) struct PageReader {
    /// The source.
    pub(crate) source: WalSourceConfig,
    /// Its backfills.
    pub(crate) store: BackfillStore,
    /// The reader of the log.
    pub(crate) requests: mpsc::Sender<PageRequest>,
    /// How far its rows are delivered.
    pub(crate) arrivals: Arc<PageArrivals>,
    /// Metrics.
    pub(crate) metrics: BackfillMetrics,
}

/// A table as its rows are logged.
struct LoggedTable {
    table: KeyedTable,
    plan: TablePlan,
    /// Texts of its columns, as SQL selects them.
    columns: String,
    /// Which rows are published.
    condition: Option<String>,
    /// What tells rows of one key apart; nothing where the key does.
    row_columns: Option<Vec<String>>,
}

impl LoggedTable {
    /// Returns a row of the log, from the texts of the columns.
    fn row(&self, texts: &[Option<String>], at: DateTime<Utc>) -> LogRow {
        let values = texts.iter().map(|text| match text {
            Some(text) => Value::Text(text),
            None => Value::Null,
        });
        let image = self.plan.new_image(&values.collect(), None);
        LogRow {
            operation: 'r',
            entity: Arc::clone(&self.plan.entity),
            key: image.key,
            tenant: image.tenant,
            occurred_at: at,
            old: None,
            new: Some(image.json),
            trace: None,
        }
    }
}

/// What of a table is published: names, types and texts of its columns, and a condition.
const PUBLISHED: &str = "
    select p.published ->> 'rowfilter',
           array_agg(a.attname::text order by a.attnum), array_agg(a.atttypid order by a.attnum),
           -- concat gives a value's own text, where a cast may give another
           string_agg(format('case when t.%1$I is distinct from null then concat(t.%1$I) end', a.attname), ', '
               order by a.attnum),
           n.nspname::text, c.relname::text
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    join (select to_jsonb(t.*) as published from pg_publication_tables t where t.pubname = $2) p
        on p.published ->> 'schemaname' = n.nspname and p.published ->> 'tablename' = c.relname
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        and (jsonb_typeof(p.published -> 'attnames') is distinct from 'array'
            or p.published -> 'attnames' ? a.attname::text)
        and (a.attgenerated = '' or current_setting('server_version_num')::integer >= 180000
            and jsonb_typeof(p.published -> 'attnames') = 'array')
    where c.oid = $1
    group by p.published, n.nspname, c.relname";

/// Whether all changes of a table have the whole row before them.
const WHOLE_IMAGES: &str = "
    select not exists (
        select from pg_class m
        where m.relreplident <> 'f' and m.relkind = 'r'
          and m.oid in (select $1::oid union select relid from pg_partition_tree($1)))";

async fn has_whole_images(by: &mut PgConnection, oid: u32) -> Result<bool, sqlx::Error> {
    let whole = sqlx::query_scalar(WHOLE_IMAGES).bind(Oid(oid));
    whole.fetch_one(by).await
}

/// Transactions that the session before this one may have read and that snapshots do not see yet: a commit is sent
/// when it is on the disk, and seen when the standbys have it that it waits for.
#[derive(Debug)]
struct UnseenBefore {
    /// When the session began.
    session_at: Instant,
    /// The first that began later, once that is known.
    since: Option<u64>,
    /// Whether commits wait for standbys. Otherwise they are seen at once, but for a process that gets no time.
    is_waited_for: bool,
    is_over: bool,
}

impl Default for UnseenBefore {
    fn default() -> Self {
        Self {
            session_at: Instant::now(),
            since: None,
            is_waited_for: true,
            is_over: false,
        }
    }
}

impl UnseenBefore {
    /// Looks at what is open now, once in a session.
    async fn look(&mut self, pool: &PgPool) -> Result<(), IngestError> {
        if self.since.is_some() {
            return Ok(());
        }
        let (since, is_waited_for): (String, bool) = sqlx::query_as(
            "select pg_snapshot_xmax(pg_current_snapshot())::text, current_setting('synchronous_standby_names') <> ''",
        )
        .fetch_one(pool)
        .await
        .map_err(IngestError::Catalog)?;
        self.since = since.parse().ok();
        self.is_waited_for = is_waited_for;
        Ok(())
    }

    /// Whether there may be one that a snapshot does not see.
    fn may_be(&mut self, snapshot: &Snapshot) -> bool {
        self.is_over |= self.since.is_some_and(|since| snapshot.xmin() >= since)
            || !self.is_waited_for && self.session_at.elapsed() >= SEEN_AT_ONCE;
        !self.is_over
    }
}

impl PageReader {
    /// Works on backfills. Does not end.
    pub(crate) async fn run(self) {
        let mut backoff = RETRY;
        let mut unseen = UnseenBefore::default();
        loop {
            let pause = match Box::pin(self.work(&mut unseen)).await {
                Ok(true) => {
                    backoff.reset();
                    Duration::ZERO
                }
                Ok(false) => LOOK_INTERVAL,
                Err(error) => {
                    tracing::debug!(%error, "cannot work on backfills; retrying");
                    backoff.next_delay()
                }
            };
            sleep(pause).await;
        }
    }

    /// Works on a backfill until it is over. Returns whether there was one.
    async fn work(&self, unseen: &mut UnseenBefore) -> Result<bool, IngestError> {
        let Some(claimed) = self.store.claim().await.map_err(IngestError::Log)? else {
            return Ok(false);
        };
        let pool = catalog_pool(&self.source.database_url)?;
        let result = self.backfill(claimed, &pool, unseen).await;
        pool.close().await;
        result.map(|()| true)
    }

    async fn backfill(
        &self,
        mut claimed: ClaimedBackfill,
        pool: &PgPool,
        unseen: &mut UnseenBefore,
    ) -> Result<(), IngestError> {
        unseen.look(pool).await?;
        let (id, entity) = (claimed.backfill.id, claimed.backfill.entity.clone());
        tracing::info!(id, entity, "backfilling");
        let mut table = None;
        let (mut speed, mut backoff) = (
            PagePace::new(claimed.backfill.rate, self.arrivals.live()),
            RETRY,
        );
        while self
            .store
            .wait_for_room(&claimed)
            .await
            .map_err(IngestError::Log)?
        {
            let most = speed.begin(self.arrivals.live());
            let page = match self.next_page(&claimed, &mut table, (pool, most)).await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(()),
                Err(error) if error.is_permanent() => return self.fail(&claimed, &error).await,
                Err(error) => {
                    speed.fail();
                    tracing::warn!(
                        id,
                        entity,
                        "a page of a backfill was not read: {error}; retrying"
                    );
                    sleep(backoff.next_delay()).await;
                    continue;
                }
            };
            speed.read();
            backoff.reset();
            let read = page.progress.clone();
            let read_at = page.rows.first().map(|row| row.occurred_at);
            let ended = if unseen.may_be(&page.snapshot) {
                Some(PageEnd::Discarded)
            } else {
                self.append(page).await
            };
            match ended {
                None => return Ok(()),
                Some(PageEnd::Over) => break,
                Some(PageEnd::Discarded) => sleep(UNSEEN_PAUSE).await,
                Some(PageEnd::Appended) => {
                    self.metrics.rows.inc_by(read.rows.unsigned_abs());
                    if let Some(read_at) = read_at {
                        self.arrivals.arrived(read_at).await;
                    }
                    let pause = speed.end(read.rows);
                    if read.is_last {
                        break;
                    }
                    claimed.advance(read);
                    sleep(pause).await;
                }
            }
        }
        tracing::info!(id, entity, "this backfill is over");
        Ok(())
    }

    async fn fail(&self, claimed: &ClaimedBackfill, error: &PageError) -> Result<(), IngestError> {
        let (id, entity) = (claimed.backfill.id, &claimed.backfill.entity);
        tracing::error!(id, entity, "a backfill has failed: {error}");
        self.metrics.failures.inc();
        let failed = self.store.fail(claimed, &error.to_string()).await;
        failed.map_err(IngestError::Log)
    }

    /// Has a page appended; nothing if the reader of the log has ended.
    async fn append(&self, page: Page) -> Option<PageEnd> {
        let (told, end) = oneshot::channel();
        let request = PageRequest::Append(Box::new(page), told);
        self.requests.send(request).await.ok()?;
        end.await.ok()
    }

    /// Reads the next page, while changes of the table are noted; nothing if the reader of the log has ended.
    async fn next_page(
        &self,
        claimed: &ClaimedBackfill,
        known: &mut Option<LoggedTable>,
        (pool, most): (&PgPool, u32),
    ) -> Result<Option<Page>, PageError> {
        let entity = &claimed.backfill.entity;
        loop {
            let table = if let Some(table) = known.take() {
                table
            } else {
                let mut tx = begin_read(pool, "read only").await?;
                let table = self.table(&mut tx, entity).await?;
                tx.rollback().await?;
                table
            };
            let (told, noted) = oneshot::channel();
            let columns = table.row_columns.clone();
            let begin = PageRequest::Begin(Arc::from(entity.as_str()), columns, told);
            if self.requests.send(begin).await.is_err() || noted.await.is_err() {
                return Ok(None);
            }
            // One that looks different now may have to be noted otherwise.
            if let Some(page) = Self::read(claimed, &table, (pool, most)).await? {
                *known = Some(table);
                return Ok(Some(page));
            }
        }
    }

    /// Reads the next page of a table; nothing if that is not as it was any more.
    async fn read(
        claimed: &ClaimedBackfill,
        table: &LoggedTable,
        (pool, most): (&PgPool, u32),
    ) -> Result<Option<Page>, PageError> {
        let mut tx = begin_read(pool, "read only").await?;
        // A partition may have been attached that has other images.
        let is_whole =
            table.row_columns.is_none() || has_whole_images(&mut tx, table.table.oid).await?;
        if !is_whole || !table.table.is_current(&mut tx).await? {
            return Ok(None);
        }
        if !table.table.has_key(claimed.key_columns.as_ref()) {
            return Err(PageError::OtherKey(claimed.backfill.entity.clone()));
        }
        let backfill = &claimed.backfill;
        let is_first = claimed.last_key.is_none();
        let condition = table.condition.as_deref();
        let select = table.table.page(&backfill.filters, is_first, condition)?;
        let most = table.table.bounded(most);
        // The snapshot is taken, so all that it sees was written before this.
        let (snapshot, end, at): (String, String, DateTime<Utc>) = sqlx::query_as(
            "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, transaction_timestamp()",
        )
        .fetch_one(&mut *tx)
        .await?;
        let sql = format!(
            "select {}, array[{}]::text[] {}",
            select.key, table.columns, select.from
        );
        let values: Vec<&str> = backfill.filters.iter().map(|one| &*one.value).collect();
        let mut found = sqlx::query(AssertSqlSafe(sql))
            .bind(&claimed.last_key)
            .bind(values)
            .bind(i64::from(most))
            .fetch(&mut *tx);
        let (mut rows, mut last_key, mut bytes) = (Vec::new(), None, 0);
        let is_cut = loop {
            if bytes > MAX_BYTES {
                break true;
            }
            let Some(row) = found.try_next().await? else {
                break false;
            };
            let texts: Vec<Option<String>> = row.try_get(1)?;
            bytes += texts.iter().flatten().map(String::len).sum::<usize>();
            rows.push(table.row(&texts, at));
            last_key = Some(row.try_get(0)?);
        };
        drop(found);
        tx.rollback().await?;
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let decoded = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        Ok(Some(Page {
            claimed: claimed.clone(),
            snapshot: snapshot.parse().map_err(|error| decoded(Box::new(error)))?,
            end: Lsn::parse(&end).map_err(|error| decoded(Box::new(error)))?,
            progress: PageProgress {
                estimated_rows: table.table.estimated_rows,
                key_columns: table.table.key_columns.clone(),
                last_key,
                rows: count.into(),
                is_last: !is_cut && count < most,
            },
            rows,
        }))
    }

    /// Reads how rows of a table are logged.
    async fn table(&self, tx: &mut PgConnection, name: &str) -> Result<LoggedTable, PageError> {
        let table = KeyedTable::find(tx, name).await?;
        let publication = &self.source.publication;
        let row = sqlx::query(PUBLISHED)
            .bind(Oid(table.oid))
            .bind(publication)
            .fetch_optional(&mut *tx)
            .await?;
        let row = row.ok_or_else(|| PageError::NotPublished {
            table: name.to_owned(),
            publication: publication.clone(),
        })?;
        let (names, types): (Vec<String>, Vec<Oid>) = (row.try_get(1)?, row.try_get(2)?);
        let published = names.clone();
        let columns = names.into_iter().zip(types);
        let relation = Relation {
            id: table.oid,
            schema: row.try_get(4)?,
            name: row.try_get(5)?,
            identity: Identity::Full,
            columns: columns
                .map(|(name, of_type)| Column {
                    is_key: true,
                    name,
                    type_id: of_type.0,
                })
                .collect(),
        };
        let catalog = Catalog::read_by(tx, publication).await?;
        let plan = TablePlan::new(&relation, &catalog, &self.source.tables);
        let row_columns = table.beyond(&plan.key_columns());
        if let Some(columns) = &row_columns {
            let is_hidden = |column: &&String| !published.contains(column) || plan.excludes(column);
            if let Some(hidden) = columns.iter().find(is_hidden) {
                return Err(PageError::Hidden {
                    table: name.to_owned(),
                    column: hidden.clone(),
                });
            }
            if !has_whole_images(tx, table.oid).await? {
                return Err(PageError::PartialImages(name.to_owned()));
            }
        }
        Ok(LoggedTable {
            plan,
            row_columns,
            columns: row.try_get(3)?,
            condition: row.try_get(0)?,
            table,
        })
    }
}
