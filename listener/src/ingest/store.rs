//! The rows of sources, and what they append to the change log. This module owns `observer.source` and
//! `observer.source_gap`.

use std::sync::Arc;
use std::time::Duration;

use ::queue::sql_transaction;
use crds::config::{SourceConfig, WalSourceConfig};
use pgwire_replication::Lsn;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

use super::error::IngestError;
use super::kafka;
use super::pages::Page;
use super::rows::{INSERT_SQL, RowBatch};
use crate::backfill::BackfillStore;
use crate::capture::change_log::id_prefix;
use crate::database::interval;

/// How far a source is in the change log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// All that was committed up to here is in the log.
    pub(crate) confirmed: Lsn,
    /// The transaction that is in the log in part: where it was committed, and how many of its changes.
    pub(crate) partial: Option<(Lsn, u64)>,
}

/// The server and the database of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Name of the server's data for ever.
    pub(crate) system_identifier: String,
    /// Its history's number.
    pub(crate) timeline: u32,
    /// The database.
    pub(crate) database: String,
    /// Number of the publication; another one has its name if it was made again.
    pub(crate) publication: u32,
}

/// A source that this process reads until another one takes over.
#[derive(Clone, Debug)]
pub(crate) struct SourceClaim {
    /// What its writes carry.
    pub(crate) epoch: i64,
    /// What is saved; nothing of a source that was never read.
    pub(crate) saved: Option<(Origin, Progress)>,
}

/// The row of one source.
#[derive(Clone, Debug)]
pub(crate) struct SourceStore {
    pool: PgPool,
    name: Arc<str>,
    listener: Arc<str>,
    holder: Arc<str>,
    lease: Duration,
}

const REGISTER: &str = "
    insert into observer.source as s (name, listeners)
    select $1, array[$2] 
    where ($3 or exists (select from observer.checkpoint c where c.listener = $2))
        and not exists (select from observer.source s where s.name = $1 and $2 = any (s.listeners))
    on conflict (name) do update set listeners = s.listeners || $2 where $2 <> all (s.listeners)";

const CLAIM: &str = "
    update observer.source
    set epoch = epoch + 1, holder = $2, expires_at = clock_timestamp() + $3
    where name = $1 and (expires_at < clock_timestamp() or holder = $2)
    returning epoch, system_identifier, timeline, database, publication, confirmed_lsn::text as confirmed,
              commit_lsn::text as commit, ordinal";

const SAVED: &str = "
    select epoch, system_identifier, timeline, database, publication, confirmed_lsn::text as confirmed,
           commit_lsn::text as commit, ordinal
    from observer.source where name = $1";

/// Without the row of the source nothing is appended.
fn append_sql() -> String {
    format!(
        "with own as (
             update observer.source
             set confirmed_lsn = $11::pg_lsn, commit_lsn = $12::pg_lsn, ordinal = $13,
                 expires_at = clock_timestamp() + $14, saved_at = clock_timestamp()
             where name = $9 and epoch = $10
             returning name
         ), added as ({INSERT_SQL})
         select count(pg_notify('observer_change_log', name)) from own"
    )
}

impl SourceStore {
    /// Names the source, the listener that has it, and this process for people.
    pub(crate) fn new(
        pool: PgPool,
        (name, listener): (&str, &str),
        holder: &str,
        lease: Duration,
    ) -> Self {
        Self {
            pool,
            name: Arc::from(name),
            listener: Arc::from(listener),
            holder: Arc::from(holder),
            lease,
        }
    }

    /// Name of the source.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Records that the listener has the source.
    pub(crate) async fn register(&self) -> Result<(), IngestError> {
        self.register_if(true).await
    }

    /// Does so again, as the row may have been deleted to begin anew; but not for a listener that is dropped, whose
    /// last process may not know of it.
    pub(crate) async fn register_again(&self) -> Result<(), IngestError> {
        self.register_if(false).await
    }

    async fn register_if(&self, is_new: bool) -> Result<(), IngestError> {
        sqlx::query(REGISTER)
            .bind(&*self.name)
            .bind(&*self.listener)
            .bind(is_new)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(IngestError::Log)
    }

    /// Takes the source over, if no other process reads it. Writes nothing if one does.
    pub(crate) async fn claim(&self) -> Result<Option<SourceClaim>, IngestError> {
        let row = sqlx::query(CLAIM)
            .bind(&*self.name)
            .bind(&*self.holder)
            .bind(interval(self.lease))
            .fetch_optional(&self.pool)
            .await
            .map_err(IngestError::Log)?;
        row.map(|row| claimed(&row))
            .transpose()
            .map_err(IngestError::Log)
    }

    /// Returns how far a source was read, if it ever was.
    pub(crate) async fn saved(pool: &PgPool, name: &str) -> Result<Option<Progress>, IngestError> {
        let found = async {
            let row = sqlx::query(SAVED).bind(name).fetch_optional(pool).await?;
            row.map(|row| claimed(&row)).transpose()
        };
        let claim = found.await.map_err(IngestError::Log)?;
        Ok(claim.and_then(|claim| Some(claim.saved?.1)))
    }

    /// Records the server that is read, and from where.
    pub(crate) async fn begin(
        &self,
        epoch: i64,
        origin: &Origin,
        progress: Progress,
    ) -> Result<(), IngestError> {
        let done = sqlx::query(
            "update observer.source
             set system_identifier = $3, timeline = $4, database = $5, confirmed_lsn = $6::pg_lsn,
                 commit_lsn = $7::pg_lsn, ordinal = $8, publication = $9
             where name = $1 and epoch = $2",
        )
        .bind(&*self.name)
        .bind(epoch)
        .bind(&origin.system_identifier)
        .bind(i64::from(origin.timeline))
        .bind(&origin.database)
        .bind(progress.confirmed.to_string())
        .bind(progress.partial.map(|(commit, _)| commit.to_string()))
        .bind(ordinal(progress))
        .bind(i64::from(origin.publication))
        .execute(&self.pool)
        .await
        .map_err(IngestError::Log)?;
        fenced_if(done.rows_affected() == 0)
    }

    /// Appends rows, moves the position and renews the lease, all or nothing, in one statement. The slot may be
    /// told of it when this returns.
    pub(crate) async fn append(
        &self,
        epoch: i64,
        progress: Progress,
        rows: RowBatch,
    ) -> Result<(), IngestError> {
        let mut connection = self.pool.acquire().await.map_err(IngestError::Log)?;
        self.append_by(&mut connection, epoch, progress, rows).await
    }

    /// Appends a page of a backfill, with how far that is. Returns false if the backfill is over or not this
    /// process's any more: then nothing is appended.
    pub(crate) async fn append_page(
        &self,
        epoch: i64,
        progress: Progress,
        (page, backfills): (Page, &BackfillStore),
    ) -> Result<bool, IngestError> {
        let mut rows = RowBatch::default();
        rows.extend(page.rows);
        let mut tx = sql_transaction::begin(&self.pool)
            .await
            .map_err(IngestError::Log)?;
        self.append_by(&mut tx, epoch, progress, rows).await?;
        let moved = async {
            BackfillStore::begin_page(&mut tx, &page.claimed, None).await?;
            if !backfills
                .finish_page(&mut tx, &page.claimed, &page.progress)
                .await?
            {
                return Ok(false);
            }
            tx.commit().await.map(|()| true)
        };
        moved.await.map_err(IngestError::Log)
    }

    async fn append_by(
        &self,
        by: &mut PgConnection,
        epoch: i64,
        progress: Progress,
        rows: RowBatch,
    ) -> Result<(), IngestError> {
        let sql = append_sql();
        let own: i64 = rows
            .bind(sqlx::query_scalar(AssertSqlSafe(sql)))
            .bind(&*self.name)
            .bind(epoch)
            .bind(progress.confirmed.to_string())
            .bind(progress.partial.map(|(commit, _)| commit.to_string()))
            .bind(ordinal(progress))
            .bind(interval(self.lease))
            .fetch_one(by)
            .await
            .map_err(IngestError::Log)?;
        fenced_if(own == 0)
    }

    /// Records what was lost.
    pub(crate) async fn record_gap(
        &self,
        reason: &str,
        from: Lsn,
        to: Lsn,
    ) -> Result<(), IngestError> {
        sqlx::query(
            "insert into observer.source_gap (name, reason, from_lsn, to_lsn)
             values ($1, $2, $3::pg_lsn, $4::pg_lsn)",
        )
        .bind(&*self.name)
        .bind(reason)
        .bind(from.to_string())
        .bind(to.to_string())
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(IngestError::Log)
    }

    /// Leaves the source to others at once.
    pub(crate) async fn release(&self) -> Result<(), IngestError> {
        sqlx::query(
            "update observer.source set holder = '', expires_at = '-infinity' where name = $1 and holder = $2",
        )
        .bind(&*self.name)
        .bind(&*self.holder)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(IngestError::Log)
    }

    /// Records that there is a source of this name, which no listener has yet.
    pub(crate) async fn name_only(pool: &PgPool, name: &str) -> Result<(), IngestError> {
        sqlx::query("insert into observer.source (name) values ($1) on conflict do nothing")
            .bind(name)
            .execute(pool)
            .await
            .map(drop)
            .map_err(IngestError::Log)
    }

    /// Whether a source has no listener any more.
    pub(crate) async fn is_unused(pool: &PgPool, name: &str) -> Result<bool, IngestError> {
        let sql =
            "select exists (select from observer.source where name = $1 and listeners = '{}')";
        sqlx::query_scalar(sql)
            .bind(name)
            .fetch_one(pool)
            .await
            .map_err(IngestError::Log)
    }

    /// Removes the row of a source that has no listener any more.
    pub(crate) async fn remove(pool: &PgPool, name: &str) -> Result<(), IngestError> {
        let sql = "with gone as (
                       delete from observer.source where name = $1 and listeners = '{}' returning name
                   )
                   delete from observer.source_gap g using gone where g.name = gone.name";
        sqlx::query(sql)
            .bind(name)
            .execute(pool)
            .await
            .map(drop)
            .map_err(IngestError::Log)
    }

    /// Returns the name of a source that is read.
    pub(crate) async fn source_name(
        pool: &PgPool,
        source: &SourceConfig,
    ) -> Result<String, IngestError> {
        match source {
            SourceConfig::Triggers(_) => Ok(String::new()),
            SourceConfig::Wal(source) => Self::slot_name(pool, source).await,
            SourceConfig::Kafka(source) => Ok(kafka::source_name(source)),
        }
    }

    /// Returns the name of a source's slot; without one of its own, it is named after the change log.
    pub(crate) async fn slot_name(
        pool: &PgPool,
        source: &WalSourceConfig,
    ) -> Result<String, IngestError> {
        if let Some(name) = &source.slot {
            return Ok(name.clone());
        }
        let log = id_prefix(pool).await.map_err(IngestError::Log)?;
        Ok(format!("observer_{log}"))
    }
}

/// Fails if another process has taken over.
pub(super) fn fenced_if(fenced: bool) -> Result<(), IngestError> {
    if fenced {
        return Err(IngestError::Fenced);
    }
    Ok(())
}

fn ordinal(progress: Progress) -> i64 {
    let ordinal = progress.partial.map_or(0, |(_, ordinal)| ordinal);
    i64::try_from(ordinal).unwrap_or(i64::MAX)
}

fn claimed(row: &PgRow) -> Result<SourceClaim, sqlx::Error> {
    let lsn = |column: &str| -> Result<Option<Lsn>, sqlx::Error> {
        let text: Option<String> = row.try_get(column)?;
        text.map(|text| Lsn::parse(&text))
            .transpose()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))
    };
    let system_identifier: Option<String> = row.try_get("system_identifier")?;
    let timeline: Option<i64> = row.try_get("timeline")?;
    let database: Option<String> = row.try_get("database")?;
    let publication: Option<i64> = row.try_get("publication")?;
    let number = |number: Option<i64>| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let ordinal: i64 = row.try_get("ordinal")?;
    let partial = lsn("commit")?.map(|commit| (commit, ordinal.unsigned_abs()));
    let saved = match (system_identifier, lsn("confirmed")?) {
        (Some(system_identifier), Some(confirmed)) => {
            let origin = Origin {
                system_identifier,
                timeline: number(timeline),
                database: database.unwrap_or_default(),
                publication: number(publication),
            };
            Some((origin, Progress { confirmed, partial }))
        }
        _ => None,
    };
    Ok(SourceClaim {
        epoch: row.try_get("epoch")?,
        saved,
    })
}
