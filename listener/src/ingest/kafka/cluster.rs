//! The brokers of a source: connections, partitions, and which offsets they have.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::config::{KafkaSourceConfig, SaslMechanism, TlsConfig as Tls};
use futures::future::join_all;
use krafka::admin::DescribeClusterOptions;
use krafka::auth::{AuthConfig, TlsConfig};
use krafka::consumer::{AutoOffsetReset, Consumer, IsolationLevel};
use krafka::error::{ErrorCode, KrafkaError};
use krafka::{Kafka, TopicInfo};
use uuid::Uuid;

use super::super::error::IngestError;
use super::offsets::Partition;

/// How long a broker may take to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what is known of topics is used: not for longer than between two looks at them.
const METADATA_AGE: Duration = Duration::from_secs(15);

/// Bytes that are asked of a broker, and of a partition, at a time. One record may be larger.
const FETCH_BYTES: i32 = 8 << 20;
const PARTITION_BYTES: i32 = 1 << 20;

/// Most records that are fetched before they are needed.
const READ_AHEAD: i32 = 2000;

/// Partitions whose offsets are asked for at once.
const ASKED_AT_ONCE: usize = 32;

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundTopic {
    /// Its name for as long as it exists; empty where brokers give none.
    pub(super) id: String,
    /// Number of its partitions.
    pub(super) partitions: usize,
}

/// A partition that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Name of its topic for as long as that exists; empty where brokers give none.
    pub(super) topic_id: String,
    /// Offset of its first record, and its last stable offset.
    pub(super) offsets: (i64, i64),
}

/// Connects to one of the brokers, and discovers the others.
pub(super) async fn connect(source: &KafkaSourceConfig) -> Result<Kafka, IngestError> {
    let brokers = source.brokers.iter();
    let brokers: Vec<String> = brokers
        .map(|(host, port)| format!("{host}:{port}"))
        .collect();
    let kafka = Kafka::builder(brokers.join(","))
        .client_id("observer-listener")
        .request_timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .metadata_max_age(METADATA_AGE)
        .security(security(source));
    Ok(kafka.connect().await?)
}

/// Name of the cluster.
pub(super) async fn id(kafka: &Kafka) -> Result<String, IngestError> {
    let admin = kafka.admin();
    let asked = admin.describe_cluster(DescribeClusterOptions::default());
    Ok(asked.await?.cluster_id)
}

/// Opens a consumer in no group, which reads what committed transactions have written.
pub(super) async fn consumer(kafka: &Kafka) -> Result<Consumer, IngestError> {
    let consumer = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::None)
        .isolation_level(IsolationLevel::ReadCommitted)
        .fetch_max_bytes(FETCH_BYTES)
        .max_partition_fetch_bytes(PARTITION_BYTES)
        .max_poll_records(READ_AHEAD)
        .max_buffered_records(READ_AHEAD)
        .metrics_push(false);
    Ok(consumer.build().await?)
}

/// Looks a topic up; nothing if there is none.
pub(super) async fn topic(
    consumer: &Consumer,
    name: &str,
) -> Result<Option<TopicInfo>, IngestError> {
    let asked = match consumer.fetch_metadata(Some(name)).await {
        Err(
            KrafkaError::UnknownTopic { .. }
            | KrafkaError::Broker {
                code: ErrorCode::UnknownTopicOrPartition,
                ..
            },
        ) => return Ok(None),
        asked => asked?,
    };
    let found = asked.topics.into_iter().find(|topic| topic.name == name);
    Ok(found.filter(|topic| topic.partition_count() > 0))
}

/// Asks for the offsets of a topic's partitions. Also returns the partitions that failed, such as those without a leader.
pub(super) async fn partitions(
    consumer: &Consumer,
    topic: &TopicInfo,
) -> (BTreeMap<Partition, Found>, Vec<(i32, KrafkaError)>) {
    let topic_id = found_topic(topic).id;
    let mut numbers: Vec<i32> = topic.partitions.keys().copied().collect();
    numbers.sort_unstable();
    let (mut found, mut failed) = (BTreeMap::new(), Vec::new());
    for some in numbers.chunks(ASKED_AT_ONCE) {
        let asked = some
            .iter()
            .map(|partition| consumer.fetch_watermarks(&topic.name, *partition));
        for (partition, offsets) in some.iter().zip(join_all(asked).await) {
            let topic_id = topic_id.clone();
            match offsets {
                Ok(offsets) => {
                    let one = Found { topic_id, offsets };
                    found.insert((topic.name.clone(), *partition), one);
                }
                Err(error) => failed.push((*partition, error)),
            }
        }
    }
    (found, failed)
}

/// What tells a topic from another one, and from itself with more partitions.
pub(super) fn found_topic(topic: &TopicInfo) -> FoundTopic {
    let id = match topic.topic_id {
        none if none == [0; 16] => String::new(),
        id => Uuid::from_bytes(id).to_string(),
    };
    FoundTopic {
        id,
        partitions: topic.partition_count(),
    }
}

fn security(source: &KafkaSourceConfig) -> AuthConfig {
    let login = source.sasl.as_ref().map(|sasl| {
        let (user, password) = (sasl.username.reveal(), sasl.password.reveal());
        match sasl.mechanism {
            SaslMechanism::Plain => AuthConfig::sasl_plain(user, password),
            SaslMechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password),
            SaslMechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password),
        }
    });
    let login = login.unwrap_or_else(AuthConfig::plaintext);
    match &source.tls {
        Some(tls) => login.with_tls(encryption(tls)),
        None => login,
    }
}

fn encryption(config: &Tls) -> TlsConfig {
    let mut tls = TlsConfig::new();
    // An image without any is no error: then the roots of browsers are trusted, or the authority alone.
    if !rustls_native_certs::load_native_certs().certs.is_empty() {
        tls = tls.with_native_roots();
    }
    if let Some(ca) = &config.ca {
        tls = tls.with_ca_cert_pem(ca.reveal());
    }
    if let Some((certificate, key)) = &config.identity {
        tls = tls.with_client_cert_pem(certificate.reveal(), key.reveal().as_bytes().to_vec());
    }
    tls
}
