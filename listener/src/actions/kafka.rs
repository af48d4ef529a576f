//! Records to topics of Kafka.
//!
//! The client is `rskafka`. A record is done once the leader of its partition and all replicas that
//! are in step have it. Its header `webhook-id` is the delivery's id.

mod answer;
mod cluster;
mod partitioner;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::KafkaConfig;
use futures::future::join_all;
use rskafka::client::partition::{Compression, PartitionClient};
use rskafka::record::Record;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::answer::{KafkaSendError, concerns_content};
use self::cluster::{BrokerAccess, KafkaCluster};
use super::Preview;
use super::batcher::{Batcher, send_bisecting};
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::control::AdmissionControl;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::egress::policy::EgressPolicy;
use crate::egress::response::until_deadline;
use crate::egress::tls::client_config;
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Most bytes of an answer; the longest tells of all topics, some 40 bytes for each partition.
pub(crate) const MAX_ANSWER: usize = 4 << 20;

/// Most characters of a topic's name.
const MAX_TOPIC: usize = 249;

/// A compiled record.
pub(super) struct Kafka {
    /// The brokers, for people; what tells the cluster from others.
    host: String,
    endpoint: String,
    access: BrokerAccess,
    topic: Template,
    key: Option<Template>,
    message: Body,
    content_type: String,
    cluster: Mutex<Option<Arc<KafkaCluster>>>,
    batches: Option<Batcher<RecordItem>>,
}

/// What one delivery writes.
pub(super) struct RecordItem {
    topic: String,
    /// What its partition is chosen by.
    place: Vec<u8>,
    record: Record,
}

impl Kafka {
    pub(super) fn compile(config: &KafkaConfig, most: u32) -> Result<Self, CompileError> {
        let brokers = config.brokers.iter();
        let brokers: Vec<String> = brokers
            .map(|(host, port)| format!("{host}:{port}"))
            .collect();
        let Some(first) = brokers.first() else {
            return Err(CompileError::field("kafka.brokers", "names none"));
        };
        let tls = config.tls.as_ref();
        let tls = tls.map(|tls| client_config("kafka.tls", tls)).transpose()?;
        let user = config.sasl.as_ref();
        let user = user.map_or("", |sasl| sasl.username.reveal());
        let key = config.key.as_deref();
        Ok(Self {
            host: first.clone(),
            endpoint: format!("kafka://{user}@{}", brokers.join(",")),
            access: BrokerAccess::new(config, tls.map(Arc::new)),
            topic: Template::compile("kafka.topic".to_owned(), &config.topic, Format::Text)?,
            key: Template::optional("kafka.key", key, Format::Text)?,
            message: Body::compile(
                "kafka.message",
                config.message.as_deref(),
                &config.content_type,
            )?,
            content_type: config.content_type.clone(),
            cluster: Mutex::new(None),
            batches: config.batch.map(|limits| Batcher::new(limits, most)),
        })
    }

    pub(super) fn endpoint(&self) -> (&str, &str) {
        (&self.endpoint, &self.host)
    }

    /// What would be written.
    pub(super) fn preview(
        &self,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Result<Preview, Failure> {
        let RecordItem { topic, record, .. } = self.part(delivery, now)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut preview = vec![("topic".to_owned(), topic)];
        preview.extend(record.key.iter().map(|key| ("key".to_owned(), text(key))));
        let headers = record.headers.iter();
        preview.extend(headers.map(|(name, value)| (name.clone(), text(value))));
        let value = record.value.iter();
        preview.extend(value.map(|value| ("message".to_owned(), text(value))));
        Ok(preview)
    }

    /// Most deliveries that go together; nothing where each goes by itself.
    pub(super) fn max_batch_size(&self) -> Option<usize> {
        self.batches.as_ref().map(Batcher::max_batch_size)
    }

    /// The batches that a delivery goes with, if it does: what failed holds none of them up.
    pub(super) fn batches_for(&self, delivery: &Delivery) -> Option<&Batcher<RecordItem>> {
        self.batches.as_ref().filter(|_| delivery.attempt == 1)
    }

    /// Writes the record for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        runtime: &ActionRuntime,
        delivery: &Delivery,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Outcome {
        let part = match self.part(delivery, now) {
            Ok(part) => part,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let outcomes = self
            .send(&runtime.egress, vec![Arc::new(part)], timeout)
            .await;
        let outcome = outcomes.into_iter().next();
        outcome.unwrap_or(Outcome::Deferred(Duration::ZERO))
    }

    /// Writes the record for `delivery` with others.
    pub(super) async fn join(
        self: &Arc<Self>,
        batches: &Batcher<RecordItem>,
        admission: &Arc<AdmissionControl>,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Outcome {
        let part = match self.part(delivery, now) {
            Ok(part) => part,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let bytes = part.record.approximate_size();
        let (kafka, admission) = (Arc::clone(self), Arc::clone(admission));
        let delivery = delivery.clone();
        batches
            .join(part, bytes, async move |parts: Vec<Arc<RecordItem>>| {
                let admitted = match admission.admit(&delivery).await {
                    Ok(admitted) => admitted,
                    Err(wait) => return vec![Outcome::Deferred(wait); parts.len()],
                };
                let sending = kafka.send(&admission.runtime.egress, parts, admission.timeout);
                let outcomes = sending.await.into_iter();
                let outcomes: Vec<Outcome> = outcomes
                    .map(|one| admission.redactor.redact_outcome(one))
                    .collect();
                if let Some(first) = outcomes.first() {
                    admitted.complete(first).await;
                }
                outcomes
            })
            .await
    }

    /// Writes the records, those of one partition together and in their order.
    async fn send(
        &self,
        egress: &EgressPolicy,
        parts: Vec<Arc<RecordItem>>,
        timeout: Duration,
    ) -> Vec<Outcome> {
        let until = (Instant::now() + timeout, timeout);
        let cluster = match until_deadline(&self.host, until, self.cluster(egress)).await {
            Ok(cluster) => cluster,
            Err(outcome) => return vec![outcome; parts.len()],
        };
        let mut outcomes = Vec::with_capacity(parts.len());
        let mut groups: BTreeMap<(String, i32), Group> = BTreeMap::new();
        let placing = parts.iter().map(|part| {
            let placed = cluster.partition(&part.topic, &part.place);
            until_deadline(&self.host, until, placed)
        });
        for (index, (placed, part)) in join_all(placing).await.into_iter().zip(&parts).enumerate() {
            match placed {
                Err(outcome) => outcomes.push((index, outcome)),
                Ok(partition) => {
                    let name = (partition.topic().to_owned(), partition.partition());
                    let group = groups.entry(name);
                    let group = group.or_insert_with(|| Group::new(partition));
                    group.parts.push(Arc::clone(part));
                    group.indices.push(index);
                }
            }
        }
        let writing = groups
            .into_values()
            .map(|group| self.write(&cluster, group, until));
        outcomes.extend(join_all(writing).await.into_iter().flatten());
        outcomes.sort_unstable_by_key(|(index, _)| *index);
        let outcomes: Vec<Outcome> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        if outcomes.iter().any(Outcome::breaks_connection) {
            let mut kept = self.cluster.lock().await;
            // Others may have made new ones meanwhile.
            kept.take_if(|kept| Arc::ptr_eq(kept, &cluster));
        } else {
            // As when a topic has been made anew with fewer partitions.
            for (outcome, part) in outcomes.iter().zip(&parts) {
                if matches!(outcome, Outcome::Retry { .. }) {
                    cluster.forget(&part.topic).await;
                }
            }
        }
        outcomes
    }

    /// Writes records of one partition.
    async fn write(
        &self,
        cluster: &KafkaCluster,
        group: Group,
        until: (Instant, Duration),
    ) -> Vec<(usize, Outcome)> {
        let Group {
            partition,
            parts,
            indices,
        } = group;
        let write = async |parts: Vec<Arc<RecordItem>>| {
            let records = parts.iter().map(|part| part.record.clone()).collect();
            let writing = partition.produce(records, Compression::NoCompression);
            let written = async {
                let of = |error| KafkaSendError::of(error, &cluster.proxy);
                writing.await.map_err(of)
            };
            let written = until_deadline(&self.host, until, written).await;
            written.err().unwrap_or(Outcome::Delivered)
        };
        let written = send_bisecting(parts, &concerns_content, &write).await;
        indices.into_iter().zip(written).collect()
    }

    /// The connections that there are, or new ones.
    async fn cluster(&self, egress: &EgressPolicy) -> Result<Arc<KafkaCluster>, KafkaSendError> {
        let mut kept = self.cluster.lock().await;
        if let Some(cluster) = &*kept {
            return Ok(Arc::clone(cluster));
        }
        let cluster = Arc::new(self.access.connect(egress).await?);
        Ok(Arc::clone(kept.insert(cluster)))
    }

    fn part(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<RecordItem, Failure> {
        let scope = RenderInput::new(delivery);
        let topic = self.topic.render(&scope)?;
        if !is_topic(&topic) {
            let why = format!(
                "came out as no topic: it has 1 to {MAX_TOPIC} ASCII letters, digits, `.`, `_` and `-`"
            );
            return Err(self.topic.refusal(&why));
        }
        let key = match &self.key {
            Some(template) => Some(template.render(&scope)?),
            None => delivery.event.key.clone(),
        };
        let key = key.map(String::into_bytes);
        let mut headers = BTreeMap::from([
            (
                "content-type".to_owned(),
                self.content_type.clone().into_bytes(),
            ),
            ("webhook-id".to_owned(), delivery.id().into_bytes()),
        ]);
        if delivery.replay.is_some() {
            headers.insert("webhook-replay".to_owned(), b"true".to_vec());
        }
        // Events without a key are of the whole entity.
        let place = key.clone();
        let place = place.unwrap_or_else(|| delivery.event.entity.as_bytes().to_vec());
        Ok(RecordItem {
            topic,
            place,
            record: Record {
                key,
                value: Some(self.message.render(&scope)?),
                headers,
                timestamp: now,
            },
        })
    }
}

/// Records of one partition, and where among all of a batch they stand.
struct Group {
    partition: Arc<PartitionClient>,
    parts: Vec<Arc<RecordItem>>,
    indices: Vec<usize>,
}

impl Group {
    const fn new(partition: Arc<PartitionClient>) -> Self {
        Self {
            partition,
            parts: Vec::new(),
            indices: Vec::new(),
        }
    }
}

/// Whether a topic may have this name.
fn is_topic(name: &str) -> bool {
    let proper = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TOPIC).contains(&name.len()) && name.bytes().all(proper) && name != "." && name != ".."
}

#[cfg(test)]
mod tests;
