//! Backfills of tables that triggers log: pages are read and appended by one statement in the database.

use std::sync::Arc;
use std::time::Duration;

use ::queue::sql_transaction;
use backoff::Backoff;
use pgoutput::SETTINGS;
use sqlx::error::DatabaseError;
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::arrivals::PageArrivals;
use super::pace::PagePace;
use super::table::{KeyedTable, TableError};
use super::work::{BackfillStore, ClaimedBackfill, PageProgress};
use crate::capture::backfilled::settle;
use crate::database::has_code;
use crate::telemetry::backfill_metrics::BackfillMetrics;

/// Interval of looks for a backfill to work on.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Backoff of pages that cannot be written.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What only a change by a person mends: data exceptions, missing tables and columns, missing rights.
const PERMANENT: [&str; 3] = ["22", "42", "0A"];

/// Works on backfills, in turn with the other processes of the listener.
#[derive(Debug)]
pub(crate) struct Backfiller {
    /// The backfills.
    pub(crate) store: BackfillStore,
    /// How far its rows are delivered.
    pub(crate) arrivals: Arc<PageArrivals>,
    /// Metrics.
    pub(crate) metrics: BackfillMetrics,
}

/// Why a page is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// The database does not answer, or refuses.
    #[error("{}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nothing logs its changes.
    #[error(
        "{0} is not tracked, so changes beside the backfill would be missing: run select observer.track('{0}'), and resume it"
    )]
    NotTracked(String),
    /// Its rows have another order than before.
    #[error("the key of {0} has other columns than when the backfill began: start another one")]
    OtherKey(String),
    /// Changes of a row cannot be told from those of others.
    #[error(
        "rows of {table} share keys, and the column {column}, which tells them apart, is left out of their events: end \
         its exclusion, or make it part of the key, and start another backfill"
    )]
    Hidden {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// As before, for want of images.
    #[error(
        "rows of {0} share keys, and changes do not have the whole row before them, by which they are told apart: run \
         alter table {0} replica identity full, and resume it"
    )]
    PartialImages(String),
    /// The source does not send its changes.
    #[error(
        "{table} is not in the publication {publication}, so changes beside the backfill would be missing: add it, as by \
         alter publication {publication} add table {table}, and resume it"
    )]
    NotPublished {
        /// The table.
        table: String,
        /// The publication.
        publication: String,
    },
}

impl PageError {
    /// Whether it stays as it is until a person does something.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Database(error) | Self::Table(TableError::Database(error)) => {
                let code = error.as_database_error().and_then(DatabaseError::code);
                code.is_some_and(|code| PERMANENT.iter().any(|class| code.starts_with(class)))
            }
            Self::Table(_)
            | Self::NotTracked(_)
            | Self::OtherKey(_)
            | Self::Hidden { .. }
            | Self::PartialImages(_)
            | Self::NotPublished { .. } => true,
        }
    }
}

/// How a page ended.
#[derive(Debug, PartialEq, Eq)]
enum PageEnd {
    /// There is another one, after this pause.
    Next(Duration),
    /// It was the last, or the backfill is not this process's any more.
    Over,
}

impl Backfiller {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = RETRY;
        while !stop.is_cancelled() {
            let worked = stop.run_until_cancelled(Box::pin(self.work())).await;
            let pause = match worked {
                None => break,
                Some(Ok(true)) => {
                    backoff.reset();
                    Duration::ZERO
                }
                Some(Ok(false)) => LOOK_INTERVAL,
                Some(Err(error)) => {
                    tracing::debug!(%error, "cannot look for backfills; retrying");
                    backoff.next_delay()
                }
            };
            stop.run_until_cancelled(sleep(pause)).await;
        }
    }

    /// Works on a backfill until it is over. Returns whether there was one.
    async fn work(&self) -> Result<bool, sqlx::Error> {
        let Some(mut claimed) = self.store.claim().await? else {
            return Ok(false);
        };
        let (id, entity) = (claimed.backfill.id, claimed.backfill.entity.clone());
        tracing::info!(id, entity, "backfilling");
        let (mut backoff, mut pace) = (
            RETRY,
            PagePace::new(claimed.backfill.rate, self.arrivals.live()),
        );
        let mut table = None;
        loop {
            if !self.store.wait_for_room(&claimed).await? {
                return Ok(true);
            }
            match self.page(&mut claimed, &mut table, &mut pace).await {
                Ok(PageEnd::Over) => {
                    tracing::info!(id, entity, "this backfill is over");
                    return Ok(true);
                }
                Ok(PageEnd::Next(pause)) => {
                    backoff.reset();
                    sleep(pause).await;
                }
                Err(error) if error.is_permanent() => {
                    tracing::error!(id, entity, "a backfill has failed: {error}");
                    self.metrics.failures.inc();
                    self.store.fail(&claimed, &error.to_string()).await?;
                    return Ok(true);
                }
                Err(error) => {
                    pace.fail();
                    tracing::warn!(
                        id,
                        entity,
                        "a page of a backfill was not written: {error}; retrying"
                    );
                    sleep(backoff.next_delay()).await;
                    if !self.store.renew(&claimed).await? {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Reads the next page and appends it, in one transaction. Keeps the table as it was found.
    async fn page(
        &self,
        claimed: &mut ClaimedBackfill,
        table: &mut Option<KeyedTable>,
        speed: &mut PagePace,
    ) -> Result<PageEnd, PageError> {
        let most = speed.begin(self.arrivals.live());
        // In a transaction before: what begins after this draws larger ids.
        let low_id =
            sqlx::query_scalar("select observer.low_watermark()").fetch_one(&self.store.pool);
        let low_id: i64 = low_id.await?;
        let mut tx = begin_read(&self.store.pool, "read write").await?;
        let (found, tracked) = look(&mut tx, claimed, table).await?;
        let compared = Some((low_id, tracked.row_columns.clone()));
        let (xid, read_at) = BackfillStore::begin_page(&mut tx, claimed, compared).await?;
        let page = append(&mut tx, claimed, (found, tracked), most).await?;
        let is_own = match self.store.finish_page(&mut tx, claimed, &page).await {
            // It was cancelled, or taken over.
            Err(error) if has_code(&error, &["40001"]) => false,
            moved => moved?,
        };
        if !is_own {
            return Ok(PageEnd::Over);
        }
        speed.read();
        tx.commit().await?;
        // Readers do so themselves; if they are far behind, they compare with more than they need to.
        if let Err(error) = settle(&self.store.pool, &[xid]).await {
            tracing::debug!(%error, "cannot settle what a page is compared with");
        }
        self.metrics.rows.inc_by(page.rows.unsigned_abs());
        if page.rows > 0 {
            self.arrivals.arrived(read_at).await;
        }
        let rest = speed.end(page.rows);
        if page.is_last {
            return Ok(PageEnd::Over);
        }
        claimed.advance(page);
        Ok(PageEnd::Next(rest))
    }
}

/// Begins a transaction of one snapshot, in which texts of values are those of the change log, and policies of rows
/// are an error.
pub(crate) async fn begin_read(
    pool: &PgPool,
    access: &str,
) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, sqlx::Error> {
    let begin = format!("begin isolation level repeatable read, {access}");
    let mut tx = sql_transaction::begin_with(pool, begin).await?;
    let settings = SETTINGS.into_iter().chain([
        ("search_path", "pg_catalog"),
        ("row_security", "off"),
        ("quote_all_identifiers", "off"),
        ("jit", "off"),
    ]);
    let settings: Vec<String> = settings
        .map(|(name, value)| format!("set local {name} = '{value}'"))
        .collect();
    sqlx::raw_sql(AssertSqlSafe(settings.join(";")))
        .execute(&mut *tx)
        .await?;
    Ok(tx)
}

/// How a table is tracked.
struct TrackedTable {
    key: Vec<String>,
    tenant: Option<String>,
    /// Columns as SQL selects them, if some are left out.
    visible: Option<String>,
    /// What tells rows of one key apart.
    row_columns: Option<Vec<String>>,
}

/// Returns the table of a backfill, as it was found before if it is still so.
async fn look<'t>(
    tx: &mut PgConnection,
    claimed: &ClaimedBackfill,
    known: &'t mut Option<KeyedTable>,
) -> Result<(&'t KeyedTable, TrackedTable), PageError> {
    let backfill = &claimed.backfill;
    let table = match known.take() {
        Some(table) if table.is_current(tx).await? => table,
        _ => KeyedTable::find(tx, &backfill.entity).await?,
    };
    let tracked = sqlx::query(
        "select (options ->> 'key')::text[], options ->> 'tenant', observer.visible_columns($1, options),
             case when options -> 'exclude' is null then '{}' else observer.excluded_columns($1, options) end
         from (select observer.options_of($1)) as o (options) where options is not null",
    )
    .bind(Oid(table.oid))
    .fetch_optional(&mut *tx)
    .await?;
    let tracked = tracked.ok_or_else(|| PageError::NotTracked(backfill.entity.clone()))?;
    if !table.has_key(claimed.key_columns.as_ref()) {
        return Err(PageError::OtherKey(backfill.entity.clone()));
    }
    let (key, excluded): (Vec<String>, Vec<String>) = (tracked.try_get(0)?, tracked.try_get(3)?);
    let row_columns = table.beyond(&key);
    let of = row_columns.as_deref().unwrap_or_default();
    if let Some(hidden) = of.iter().find(|column| excluded.contains(column)) {
        return Err(PageError::Hidden {
            table: backfill.entity.clone(),
            column: hidden.clone(),
        });
    }
    let tracked = TrackedTable {
        row_columns,
        key,
        tenant: tracked.try_get(1)?,
        visible: tracked.try_get(2)?,
    };
    Ok((known.insert(table), tracked))
}

/// Appends the next rows to the change log, as the table's triggers would log them.
async fn append(
    tx: &mut PgConnection,
    claimed: &ClaimedBackfill,
    (table, tracked): (&KeyedTable, TrackedTable),
    most: u32,
) -> Result<PageProgress, PageError> {
    let backfill = &claimed.backfill;
    let page = table.page(&backfill.filters, claimed.last_key.is_none(), None)?;
    let most = table.bounded(most);
    let image = tracked.visible.map_or_else(
        || "row_to_json(t.*)".to_owned(),
        |columns| format!("(select row_to_json(visible.*) from (select {columns}) visible)"),
    );
    let sql = format!(
        "with page as materialized (
             select row_number() over () as n, rows.* from (
                 select {image} as image, {} as last_key {}
             ) rows
         ), keyed as (
             select n, image, observer.key_of(image, $4) as key, observer.field(image, $5) as tenant from page offset 0
         ), added as (
             insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, new)
             select (select partition_no from observer.log_partition_state), observer.hash_of(tenant, $6, key),
                 octet_length(image::text), 'r', $6, key, tenant, image
             from keyed order by n
         )
         select count(*), (select p.last_key from page p order by p.n desc limit 1) from page",
        page.key, page.from
    );
    let values: Vec<&str> = backfill.filters.iter().map(|one| &*one.value).collect();
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(&claimed.last_key)
        .bind(values)
        .bind(i64::from(most))
        .bind(tracked.key)
        .bind(tracked.tenant)
        .bind(&backfill.entity)
        .fetch_one(&mut *tx)
        .await?;
    let rows: i64 = row.try_get(0)?;
    Ok(PageProgress {
        estimated_rows: table.estimated_rows,
        key_columns: table.key_columns.clone(),
        last_key: row.try_get(1)?,
        rows,
        is_last: rows < i64::from(most),
    })
}
