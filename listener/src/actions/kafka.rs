//! Kafka actions: records to topics.
//!
//! The client is `rskafka`. A record is delivered once all in-sync replicas of its partition have
//! it. Its header `webhook-id` is the delivery's id.

mod cluster;
mod error;
mod partitioner;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::KafkaConfig;
use futures::future::{BoxFuture, join_all};
use rskafka::client::partition::{Compression, PartitionClient};
use rskafka::record::Record;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::cluster::{BrokerAccess, KafkaCluster};
use self::error::{KafkaSendError, concerns_content};
use super::batcher::{Batcher, send_bisecting};
use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::deliver_batch::{DeliverBatch, join_batch};
use super::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::admission::control::AdmissionControl;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::formats::HeaderProtocol;
use crate::delivery::outcome::Outcome;
use crate::egress::policy::EgressPolicy;
use crate::egress::redaction::Secrets;
use crate::egress::response::{DeliveryError, classify, until_deadline};
use crate::egress::tls::client_config;
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Most bytes of a response; the longest lists all topics, some 40 bytes for each partition.
pub(crate) const MAX_ANSWER: usize = 4 << 20;

/// Most characters of a topic's name.
const MAX_TOPIC: usize = 249;

/// Compiled record.
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
    batcher: Option<Batcher<RecordItem>>,
}

/// Record of one delivery.
pub(super) struct RecordItem {
    topic: String,
    /// Bytes whose hash chooses the partition.
    partition_key: Vec<u8>,
    record: Record,
}

impl Kafka {
    fn compile(config: &KafkaConfig, context: CompileContext<'_>) -> Result<Self, CompileError> {
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
            )?
            .with_format(config.format, context.listener),
            content_type: config.content_type.clone(),
            cluster: Mutex::new(None),
            batcher: config
                .batch
                .map(|limits| Batcher::new(limits, context.max_concurrency)),
        })
    }

    /// Writes the records, those of one partition together and in their order.
    async fn send(
        &self,
        egress: &EgressPolicy,
        items: Vec<Arc<RecordItem>>,
        timeout: Duration,
    ) -> Vec<Result<(), DeliveryError>> {
        let until = (Instant::now() + timeout, timeout);
        let cluster = match until_deadline(until, self.cluster(egress)).await {
            Ok(cluster) => cluster,
            Err(error) => return vec![Err(error); items.len()],
        };
        let mut results = Vec::with_capacity(items.len());
        let mut groups: BTreeMap<(String, i32), Group> = BTreeMap::new();
        let placing = items.iter().map(|item| {
            let placed = cluster.partition(&item.topic, &item.partition_key);
            until_deadline(until, placed)
        });
        for (index, (placed, item)) in join_all(placing).await.into_iter().zip(&items).enumerate() {
            match placed {
                Err(error) => results.push((index, Err(error))),
                Ok(partition) => {
                    let name = (partition.topic().to_owned(), partition.partition());
                    let group = groups.entry(name);
                    let group = group.or_insert_with(|| Group::new(partition));
                    group.items.push(Arc::clone(item));
                    group.indices.push(index);
                }
            }
        }
        let writing = groups
            .into_values()
            .map(|group| write(&cluster, group, until));
        results.extend(join_all(writing).await.into_iter().flatten());
        results.sort_unstable_by_key(|(index, _)| *index);
        let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
        self.drop_stale(&cluster, &items, &results).await;
        results
    }

    /// Drops connections that failed, and cached metadata of topics that records failed for.
    async fn drop_stale(
        &self,
        cluster: &Arc<KafkaCluster>,
        items: &[Arc<RecordItem>],
        results: &[Result<(), DeliveryError>],
    ) {
        let mut errors = results.iter().filter_map(|result| result.as_ref().err());
        if errors.any(DeliveryError::breaks_connection) {
            let mut kept = self.cluster.lock().await;
            // Another attempt may have reconnected meanwhile.
            kept.take_if(|kept| Arc::ptr_eq(kept, cluster));
            return;
        }
        // For example a topic that was recreated with fewer partitions.
        for (result, item) in results.iter().zip(items) {
            if result.as_ref().is_err_and(DeliveryError::is_retryable) {
                cluster.drop_topic(&item.topic).await;
            }
        }
    }

    /// Returns the open connections, or connects.
    async fn cluster(&self, egress: &EgressPolicy) -> Result<Arc<KafkaCluster>, KafkaSendError> {
        let mut kept = self.cluster.lock().await;
        if let Some(cluster) = &*kept {
            return Ok(Arc::clone(cluster));
        }
        let cluster = Arc::new(self.access.connect(egress).await?);
        Ok(Arc::clone(kept.insert(cluster)))
    }

    fn render(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<RecordItem, Failure> {
        let input = RenderInput::new(delivery);
        let topic = self.topic.render(&input)?;
        if !is_topic(&topic) {
            let why = format!(
                "came out as no topic: it has 1 to {MAX_TOPIC} ASCII letters, digits, `.`, `_` and `-`"
            );
            return Err(self.topic.refusal(&why));
        }
        let key = match &self.key {
            Some(template) => Some(template.render(&input)?),
            None => delivery.event.key.clone(),
        };
        let key = key.map(String::into_bytes);
        let of_format = self.message.headers(delivery, HeaderProtocol::Kafka);
        let of_format = of_format.into_iter();
        let mut headers: BTreeMap<_, _> = of_format
            .map(|(name, value)| (name, value.into_bytes()))
            .collect();
        headers.extend([
            (
                "content-type".to_owned(),
                self.content_type.clone().into_bytes(),
            ),
            ("webhook-id".to_owned(), delivery.id().into_bytes()),
        ]);
        if delivery.replay.is_some() {
            headers.insert("webhook-replay".to_owned(), b"true".to_vec());
        }
        if let Some(trace) = delivery.given_trace() {
            headers.insert("traceparent".to_owned(), trace.to_string().into_bytes());
        }
        // Events without a key concern the whole entity.
        let partition_key = key.clone();
        let partition_key =
            partition_key.unwrap_or_else(|| delivery.event.entity.as_bytes().to_vec());
        Ok(RecordItem {
            topic,
            partition_key,
            record: Record {
                key,
                value: Some(self.message.render(&input, now)?),
                headers,
                timestamp: now,
            },
        })
    }
}

/// Writes records of one partition.
async fn write(
    cluster: &KafkaCluster,
    group: Group,
    until: (Instant, Duration),
) -> Vec<(usize, Result<(), DeliveryError>)> {
    let Group {
        partition,
        items,
        indices,
    } = group;
    let write = async |items: Vec<Arc<RecordItem>>| {
        let records = items.iter().map(|item| item.record.clone()).collect();
        let writing = partition.produce(records, Compression::NoCompression);
        let written = async {
            let of = |error| KafkaSendError::of(error, &cluster.proxy);
            writing.await.map(drop).map_err(of)
        };
        until_deadline(until, written).await
    };
    let written = send_bisecting(items, &concerns_content, &write).await;
    indices.into_iter().zip(written).collect()
}

impl ActionDefinition for KafkaConfig {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn address_field(&self) -> &'static str {
        "kafka.brokers"
    }

    fn compile(&self, context: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Kafka::compile(self, context)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        let output = TemplateOutput::of_content_type(&self.content_type);
        TemplateSources::default()
            .text("kafka.topic", &self.topic)
            .text("kafka.key", &self.key)
            .add("kafka.message", &self.message, output)
            .into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        if let Some(sasl) = &self.sasl {
            secrets.login(&sasl.username, &sasl.password);
        }
    }
}

impl DeliverAction for Kafka {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some((&self.endpoint, &self.host))
    }

    fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        let RecordItem { topic, record, .. } = self.render(delivery, now)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut preview = vec![("topic".to_owned(), topic)];
        preview.extend(record.key.iter().map(|key| ("key".to_owned(), text(key))));
        let headers = record.headers.iter();
        preview.extend(headers.map(|(name, value)| (name.clone(), text(value))));
        let value = record.value.iter();
        preview.extend(value.map(|value| ("message".to_owned(), text(value))));
        Ok(preview)
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let item = Arc::new(self.render(request.delivery, request.now)?);
        let (egress, timeout) = (&request.runtime.egress, request.timeout);
        Ok(Transmission::of(async move {
            let results = self.send(egress, vec![item], timeout).await;
            results.into_iter().collect::<Result<(), DeliveryError>>()
        }))
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.cluster.lock().await.take()) })
    }

    fn max_batch_size(&self) -> Option<usize> {
        self.batcher.as_ref().map(Batcher::max_batch_size)
    }

    fn join_batch<'a>(
        self: Arc<Self>,
        admission: &'a Arc<AdmissionControl>,
        delivery: &'a Delivery,
        now: DateTime<Utc>,
    ) -> Option<BoxFuture<'a, Outcome>> {
        join_batch(self, admission, delivery, now)
    }
}

impl DeliverBatch for Kafka {
    type Item = RecordItem;

    fn batcher(&self) -> Option<&Batcher<RecordItem>> {
        self.batcher.as_ref()
    }

    fn item(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<RecordItem, Failure> {
        self.render(delivery, now)
    }

    fn size(item: &RecordItem) -> usize {
        item.record.approximate_size()
    }

    async fn send_batch(
        &self,
        items: Vec<Arc<RecordItem>>,
        admission: &AdmissionControl,
        first: &Delivery,
        _: DateTime<Utc>,
    ) -> Vec<Outcome> {
        let size = items.len();
        let sending = async {
            let egress = &admission.runtime.egress;
            let results = self.send(egress, items, admission.timeout).await;
            let outcome = |result: Result<(), DeliveryError>| match result {
                Ok(()) => Outcome::Delivered,
                Err(error) => classify(&self.host, error),
            };
            results.into_iter().map(outcome).collect()
        };
        admission.run_batch(first, size, sending).await
    }
}

/// Records of one partition, and their indices in the batch.
struct Group {
    partition: Arc<PartitionClient>,
    items: Vec<Arc<RecordItem>>,
    indices: Vec<usize>,
}

impl Group {
    const fn new(partition: Arc<PartitionClient>) -> Self {
        Self {
            partition,
            items: Vec::new(),
            indices: Vec::new(),
        }
    }
}

/// Returns whether a topic may have this name.
fn is_topic(name: &str) -> bool {
    let proper = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TOPIC).contains(&name.len()) && name.bytes().all(proper) && name != "." && name != ".."
}

#[cfg(test)]
mod tests;
