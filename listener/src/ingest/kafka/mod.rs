//! Topics of Kafka as a source: records are appended to the change log with the offsets after them in one transaction,
//! so each is in the log once. Records of a partition keep their order.
//!
//! No consumer group is needed: who reads is decided by the row of the source, and offsets are saved beside the rows.

mod beginning;
mod cluster;
mod offsets;
mod records;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{KafkaSourceConfig, KafkaTopicConfig};
use crds::pod_status::{PodProblem, SOURCE_NOT_READ};
use krafka::ConsumerRecord;
use krafka::consumer::Consumer;
use sqlx::PgPool;
use sqlx::error::DatabaseError;
use tokio::time::{Instant, sleep};

use self::beginning::begin;
use self::cluster::FoundTopic;
use self::offsets::{Gap, OffsetStore, Partition};
use self::records::{Malformed, Record};
use super::error::IngestError;
use super::rows::{LogRow, RowBatch};
use super::store::{SourceClaim, SourceStore};
use crate::telemetry::source_metrics::SourceMetrics;
use crate::telemetry::status::StatusReporter;

/// Interval of looks for new partitions, and while a topic is missing.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);
const MISSING_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes of the records that are appended together.
const MAX_BYTES: usize = 8 << 20;

/// Time after which a partition that brokers have told nothing of is reported.
const SILENT_GRACE: Duration = Duration::from_secs(30);

/// What is wrong with a row itself, not with the database: data exceptions, and limits of the program.
const DATA: [&str; 2] = ["22", "54"];

/// What the session of a source needs.
pub(super) struct KafkaSession<'a> {
    /// The source.
    pub(super) source: &'a KafkaSourceConfig,
    /// Connections to the database of the change log.
    pub(super) log: &'a PgPool,
    /// Metrics.
    pub(super) metrics: &'a SourceMetrics,
    /// What the operator is told.
    pub(super) reporter: &'a StatusReporter,
    /// Time after its last write when another process may take over.
    pub(super) lease: Duration,
    /// Interval of writes while nothing comes.
    pub(super) renewal: Duration,
}

/// A record on its way to the log.
struct Entry {
    partition: Partition,
    offset: i64,
    bytes: usize,
    read: Result<Option<LogRow>, Malformed>,
}

/// Name of a source's row. Those of slots have no slash.
pub(super) fn source_name(source: &KafkaSourceConfig) -> String {
    format!("kafka/{}", source.name)
}

/// Checks that another process, which reads the source, reads the topics of this one, too.
pub(super) async fn check_topics(
    log: &PgPool,
    source: &KafkaSourceConfig,
) -> Result<(), IngestError> {
    let topics: Vec<&str> = source.topics.iter().map(|topic| &*topic.topic).collect();
    let unread = offsets::unread_topic(log, &source_name(source), &topics).await?;
    unread.map_or(Ok(()), |topic| {
        Err(IngestError::TopicNotRead {
            topic,
            name: source.name.clone(),
        })
    })
}

impl KafkaSession<'_> {
    /// Reads the topics until that fails.
    pub(super) async fn read(
        &self,
        store: &SourceStore,
        claim: &SourceClaim,
    ) -> Result<(), IngestError> {
        let (pool, name) = (self.log.clone(), store.name());
        let offsets = OffsetStore::new(pool, name, claim.epoch, self.lease);
        // Brokers may let one wait for longer than the lease lasts.
        tokio::select! {
            result = Box::pin(self.read_topics(name, &offsets)) => result,
            result = self.renew(&offsets) => result,
        }
    }

    /// Renews the lease. Ends by failing.
    async fn renew(&self, offsets: &OffsetStore) -> Result<(), IngestError> {
        loop {
            sleep(self.renewal).await;
            offsets
                .append(RowBatch::default(), &BTreeMap::new(), &[])
                .await?;
        }
    }

    async fn read_topics(&self, name: &str, offsets: &OffsetStore) -> Result<(), IngestError> {
        let kafka = cluster::connect(self.source).await?;
        let consumer = cluster::consumer(&kafka).await?;
        let begun = begin(self, offsets, (&kafka, &consumer)).await?;
        tracing::info!(
            source = name,
            partitions = begun.next.len(),
            "reading topics of Kafka"
        );
        self.metrics.connected.set(1);
        let problem = (!begun.left_out.is_empty()).then(|| PodProblem {
            reason: SOURCE_NOT_READ.to_owned(),
            message: format!("{}; the others are read", begun.left_out.join("; ")),
        });
        if let Some(problem) = &problem {
            tracing::warn!(source = name, "{}", problem.message);
        }
        let next_look = if problem.is_some() {
            MISSING_INTERVAL
        } else {
            LOOK_INTERVAL
        };
        self.reporter.set_source(problem);
        let result = tokio::select! {
            result = self.append_all(&consumer, offsets, begun.next) => result,
            result = self.watch(&consumer, begun.topics, next_look) => result,
        };
        // What it has read and not returned is read again.
        let _closed = consumer.close().await;
        result
    }

    /// Appends what comes. Ends by failing.
    async fn append_all(
        &self,
        consumer: &Consumer,
        offsets: &OffsetStore,
        mut saved: BTreeMap<Partition, i64>,
    ) -> Result<(), IngestError> {
        let topics: BTreeMap<&str, &KafkaTopicConfig> = self
            .source
            .topics
            .iter()
            .map(|topic| (&*topic.topic, topic))
            .collect();
        let (begun, mut is_told) = (Instant::now(), false);
        loop {
            let records = if saved.is_empty() {
                sleep(self.renewal).await;
                Vec::new()
            } else {
                consumer.poll(self.renewal).await?
            };
            // All that was returned lies before these, and so do the ends of transactions, which are no records.
            let lags = consumer.lag().await;
            let mut entries = Vec::with_capacity(records.len());
            let mut bytes = 0;
            for record in records {
                let Some(topic) = topics.get(&*record.topic) else {
                    continue;
                };
                let entry = entry(topic, &record, Utc::now());
                bytes += entry.bytes;
                entries.push(entry);
                if bytes > MAX_BYTES {
                    self.save(offsets, std::mem::take(&mut entries), BTreeMap::new())
                        .await?;
                    bytes = 0;
                }
            }
            let reached = lags.iter().filter_map(|(at, lag)| {
                let partition = (at.topic.clone(), at.partition);
                let moved = saved.get(&partition) < lag.position.as_ref();
                lag.position.filter(|_| moved).map(|next| (partition, next))
            });
            let reached: BTreeMap<Partition, i64> = reached.collect();
            if !entries.is_empty() || !reached.is_empty() {
                self.save(offsets, entries, reached.clone()).await?;
                saved.extend(reached);
            }
            let unread: u64 = lags.values().filter_map(|one| one.lag).sum();
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            self.metrics.unread_records.set(unread as f64);
            let silent = lags.iter().find(|(_, lag)| lag.lag.is_none());
            if !is_told
                && begun.elapsed() > SILENT_GRACE
                && let Some((at, _)) = silent
            {
                is_told = true;
                let message = format!(
                    "partition {} of the topic {} cannot be read: see whether it has a leader, and whether the login may \
                     read the topic",
                    at.partition, at.topic
                );
                tracing::error!("{message}");
                self.reporter.set_source(Some(PodProblem {
                    reason: SOURCE_NOT_READ.to_owned(),
                    message,
                }));
            }
        }
    }

    /// Appends records. Of those that the log refuses, it finds out which one it is, and goes on without it.
    async fn save(
        &self,
        offsets: &OffsetStore,
        mut entries: Vec<Entry>,
        reached: BTreeMap<Partition, i64>,
    ) -> Result<(), IngestError> {
        let mut begin = 0;
        let mut end = entries.len();
        let none = BTreeMap::new();
        loop {
            // Until all are appended, their own offsets count.
            let reached = if end == entries.len() {
                &reached
            } else {
                &none
            };
            match append(offsets, &entries[begin..end], reached).await {
                Ok(()) => {
                    self.count(&entries[begin..end]);
                    begin = end;
                    end = entries.len();
                    if begin == end {
                        return Ok(());
                    }
                }
                Err(error) => {
                    let is_one = end - begin == 1;
                    let is_known = is_one && entries[begin].read.is_err();
                    let Some(code) = refusal(&error).filter(|_| begin < end && !is_known) else {
                        return Err(error);
                    };
                    if is_one {
                        entries[begin].read = Err(Malformed::Refused(code));
                    } else {
                        end = begin + (end - begin) / 2;
                    }
                }
            }
        }
    }

    fn count(&self, entries: &[Entry]) {
        let rows = entries
            .iter()
            .filter_map(|entry| entry.read.as_ref().ok()?.as_ref());
        let mut appended = 0;
        for row in rows {
            appended += 1;
            let delay = (Utc::now() - row.occurred_at).as_seconds_f64();
            self.metrics.delay.set(delay.max(0.0));
        }
        self.metrics.changes.inc_by(appended);
        let no_events = entries.iter().filter(|entry| entry.read.is_err());
        let records = no_events.clone().count();
        self.metrics.malformed.inc_by(records as u64);
        // One line for all of them, as a topic may hold nothing else.
        if let Some(first) = no_events.into_iter().next()
            && let Err(why) = &first.read
        {
            let ((topic, partition), offset) = (&first.partition, first.offset);
            tracing::warn!(
                topic,
                partition,
                offset,
                records,
                "records that are no events are passed over; of the first, {why}"
            );
        }
    }

    /// Ends when there are other partitions than at the beginning, or another topic has the name of one, so that the
    /// session is opened again.
    async fn watch(
        &self,
        consumer: &Consumer,
        topics: BTreeMap<String, FoundTopic>,
        interval: Duration,
    ) -> Result<(), IngestError> {
        let mut last = Instant::now();
        loop {
            sleep(interval.saturating_sub(last.elapsed())).await;
            last = Instant::now();
            for topic in &self.source.topics {
                let found = cluster::topic(consumer, &topic.topic).await;
                // Brokers that do not answer are told of by what reads from them.
                let Ok(found) = found else { continue };
                let found = found.as_ref().map(cluster::found_topic);
                if found.as_ref() != topics.get(&topic.topic) {
                    return Err(IngestError::CatalogOutdated);
                }
            }
        }
    }
}

fn entry(topic: &KafkaTopicConfig, record: &ConsumerRecord, now: DateTime<Utc>) -> Entry {
    let (key, value) = (record.key.as_deref(), record.value.as_deref());
    let parts = Record {
        key,
        value,
        timestamp: record.timestamp,
        traceparent: record.header_str("traceparent"),
    };
    Entry {
        partition: (record.topic.to_string(), record.partition),
        offset: record.offset,
        bytes: key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len),
        read: records::read(topic, parts, now),
    }
}

async fn append(
    offsets: &OffsetStore,
    entries: &[Entry],
    reached: &BTreeMap<Partition, i64>,
) -> Result<(), IngestError> {
    let (mut rows, mut next, mut gaps) = (RowBatch::default(), BTreeMap::new(), Vec::new());
    for entry in entries {
        next.insert(entry.partition.clone(), entry.offset + 1);
        match &entry.read {
            Ok(row) => rows.extend(row.clone()),
            Err(why) => gaps.push(Gap {
                partition: entry.partition.clone(),
                reason: why.to_string(),
                offsets: (entry.offset, entry.offset + 1),
                records: 1,
            }),
        }
    }
    next.extend(reached.clone());
    offsets.append(rows, &next, &gaps).await
}

/// SQLSTATE of an error that is about a row.
fn refusal(error: &IngestError) -> Option<String> {
    let IngestError::Log(error) = error else {
        return None;
    };
    let code = error.as_database_error().and_then(DatabaseError::code)?;
    let is_of_data = DATA.iter().any(|class| code.starts_with(class));
    is_of_data.then(|| code.into_owned())
}
