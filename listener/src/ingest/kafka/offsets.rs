//! Offsets of the topics of a source, saved with the rows up to them. Owns `observer.source_offset`, and writes to
//! `observer.source` and `observer.source_gap` what is of topics.

use std::collections::BTreeMap;
use std::time::Duration;

use ::queue::sql_transaction;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::super::error::IngestError;
use super::super::rows::{INSERT_SQL, RowBatch};
use super::super::store::fenced_if;
use crate::database::interval;

/// A partition of a topic.
pub(super) type Partition = (String, i32);

/// What is saved of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedOffset {
    /// Name of the topic for as long as it exists: another one may get its name.
    pub(super) topic_id: String,
    /// All records before it are in the log.
    pub(super) next: i64,
}

/// A run of records that are lost, or are no events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The partition.
    pub(super) partition: Partition,
    /// Why.
    pub(super) reason: String,
    /// Offsets of the first and after the last.
    pub(super) offsets: (i64, i64),
    /// How many there are.
    pub(super) records: i64,
}

/// The offsets of one source.
#[derive(Clone, Debug)]
pub(super) struct OffsetStore {
    pool: PgPool,
    /// Name of the source.
    name: String,
    epoch: i64,
    lease: Duration,
}

/// Returns a topic that the session which reads the source does not list.
pub(super) async fn unread_topic(
    pool: &PgPool,
    name: &str,
    topics: &[&str],
) -> Result<Option<String>, IngestError> {
    sqlx::query_scalar(
        "select wanted from observer.source s, unnest($2::text[]) as wanted
         where s.name = $1 and wanted <> all (s.topics)
         order by wanted limit 1",
    )
    .bind(name)
    .bind(topics)
    .fetch_optional(pool)
    .await
    .map_err(IngestError::Log)
}

/// Events of operation `Read` are for all listeners.
fn append_sql() -> String {
    format!(
        "with own as (
             update observer.source
             set expires_at = clock_timestamp() + $11, saved_at = clock_timestamp()
             where name = $9 and epoch = $10
             returning name
         ), saved as (
             update observer.source_offset o set next_offset = r.next_offset
             from unnest($12::text[], $13::integer[], $14::bigint[]) as r (topic, partition, next_offset)
             where o.name = $9 and o.topic = r.topic and o.partition = r.partition and exists (select from own)
         ), page as (
             insert into observer.backfill_page (xid, listener)
             select pg_current_xact_id(), '' where exists (select from own) and 'r' = any ($1)
         ), added as ({INSERT_SQL})
         select count(pg_notify('observer_change_log', name)) from own"
    )
}

/// Those of one partition and reason are one row, so that a topic of something else fills no table.
const GAP_SQL: &str = "
    insert into observer.source_gap as g (name, topic, partition, reason, from_offset, to_offset, records)
    select $1, r.topic, r.partition, r.reason, min(r.at), max(r.upto), sum(r.records)
    from unnest($2::text[], $3::integer[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[])
        as r (topic, partition, reason, at, upto, records)
    group by r.topic, r.partition, r.reason
    on conflict (name, topic, partition, reason) do update
    set to_offset = excluded.to_offset, records = g.records + excluded.records, recorded_at = clock_timestamp()";

/// Topics and numbers of partitions, as statements take them.
fn columns<'p>(partitions: impl Iterator<Item = &'p Partition>) -> (Vec<&'p str>, Vec<i32>) {
    partitions
        .map(|(topic, number)| (topic.as_str(), *number))
        .unzip()
}

impl OffsetStore {
    /// The offsets of a source, under the epoch that this process claimed it with.
    pub(super) fn new(pool: PgPool, name: &str, epoch: i64, lease: Duration) -> Self {
        Self {
            pool,
            name: name.to_owned(),
            epoch,
            lease,
        }
    }

    /// The cluster that was read, and the offsets; no cluster of a source that was never read.
    pub(super) async fn saved(
        &self,
    ) -> Result<(Option<String>, BTreeMap<Partition, SavedOffset>), IngestError> {
        let cluster = sqlx::query_scalar("select cluster from observer.source where name = $1")
            .bind(&self.name)
            .fetch_one(&self.pool)
            .await
            .map_err(IngestError::Log)?;
        let rows: Vec<(String, i32, String, i64)> = sqlx::query_as(
            "select topic, partition, topic_id, next_offset from observer.source_offset where name = $1",
        )
        .bind(&self.name)
        .fetch_all(&self.pool)
        .await
        .map_err(IngestError::Log)?;
        let offsets = rows.into_iter().map(|(topic, partition, topic_id, next)| {
            ((topic, partition), SavedOffset { topic_id, next })
        });
        Ok((cluster, offsets.collect()))
    }

    /// Records the cluster, the topics that are listed, where partitions begin, and what is lost before that.
    pub(super) async fn begin(
        &self,
        (cluster, topics): (&str, &[&str]),
        offsets: &BTreeMap<Partition, SavedOffset>,
        lost: &[Gap],
    ) -> Result<(), IngestError> {
        let mut tx = sql_transaction::begin(&self.pool)
            .await
            .map_err(IngestError::Log)?;
        let own = sqlx::query(
            "update observer.source set cluster = $3, topics = $4 where name = $1 and epoch = $2",
        )
        .bind(&self.name)
        .bind(self.epoch)
        .bind(cluster)
        .bind(topics)
        .execute(&mut *tx)
        .await
        .map_err(IngestError::Log)?;
        fenced_if(own.rows_affected() == 0)?;
        let (topics_of, partitions) = columns(offsets.keys());
        sqlx::query(
            "insert into observer.source_offset (name, topic, partition, topic_id, next_offset)
             select $1, r.* from unnest($2::text[], $3::integer[], $4::text[], $5::bigint[]) as r
             on conflict (name, topic, partition) do update
             set topic_id = excluded.topic_id, next_offset = excluded.next_offset",
        )
        .bind(&self.name)
        .bind(topics_of)
        .bind(partitions)
        .bind(
            offsets
                .values()
                .map(|saved| &*saved.topic_id)
                .collect::<Vec<_>>(),
        )
        .bind(offsets.values().map(|saved| saved.next).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await
        .map_err(IngestError::Log)?;
        self.record_gaps(&mut tx, lost).await?;
        tx.commit().await.map_err(IngestError::Log)
    }

    /// Appends rows, moves the offsets, and renews the lease, all or nothing.
    pub(super) async fn append(
        &self,
        rows: RowBatch,
        offsets: &BTreeMap<Partition, i64>,
        gaps: &[Gap],
    ) -> Result<(), IngestError> {
        let (topics, partitions) = columns(offsets.keys());
        let mut tx = sql_transaction::begin(&self.pool)
            .await
            .map_err(IngestError::Log)?;
        let own: i64 = rows
            .bind(sqlx::query_scalar(AssertSqlSafe(append_sql())))
            .bind(&self.name)
            .bind(self.epoch)
            .bind(interval(self.lease))
            .bind(topics)
            .bind(partitions)
            .bind(offsets.values().copied().collect::<Vec<_>>())
            .fetch_one(&mut *tx)
            .await
            .map_err(IngestError::Log)?;
        fenced_if(own == 0)?;
        self.record_gaps(&mut tx, gaps).await?;
        tx.commit().await.map_err(IngestError::Log)
    }

    async fn record_gaps(
        &self,
        connection: &mut PgConnection,
        gaps: &[Gap],
    ) -> Result<(), IngestError> {
        if gaps.is_empty() {
            return Ok(());
        }
        let of = gaps.iter();
        let (topics, partitions) = columns(of.clone().map(|gap| &gap.partition));
        sqlx::query(GAP_SQL)
            .bind(&self.name)
            .bind(topics)
            .bind(partitions)
            .bind(of.clone().map(|gap| &*gap.reason).collect::<Vec<_>>())
            .bind(of.clone().map(|gap| gap.offsets.0).collect::<Vec<_>>())
            .bind(of.clone().map(|gap| gap.offsets.1).collect::<Vec<_>>())
            .bind(of.map(|gap| gap.records).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
            .map_err(IngestError::Log)
    }
}
