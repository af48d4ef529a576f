//! Connections to the brokers of one cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crds::config::{KafkaConfig, SaslConfig, SaslMechanism};
use rskafka::BackoffConfig;
use rskafka::client::partition::{PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig as Login};
use rustls::ClientConfig;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::MAX_ANSWER;
use super::error::KafkaSendError;
use super::partitioner::partition;
use crate::egress::policy::EgressPolicy;
use crate::egress::response::DeliveryError;
use crate::egress::socks5::Socks5Proxy;

/// How long the metadata of a topic is cached: it may get more partitions.
const TOPIC_AGE: Duration = Duration::from_mins(5);

/// How long the client retries by itself, which it does for any reason: long enough to find the new
/// leader of a partition. What takes longer is a failed attempt.
const CLIENT_RETRY_TIME: Duration = Duration::from_millis(300);

/// Addresses and credentials of a cluster.
pub(super) struct BrokerAccess {
    brokers: Vec<(String, u16)>,
    tls: Option<Arc<ClientConfig>>,
    login: Option<Login>,
}

impl BrokerAccess {
    pub(super) fn new(config: &KafkaConfig, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            brokers: config.brokers.clone(),
            tls,
            login: config.sasl.as_ref().map(login),
        }
    }

    /// Connects to one of the brokers, and discovers the others.
    pub(super) async fn connect(
        &self,
        egress: &EgressPolicy,
    ) -> Result<KafkaCluster, KafkaSendError> {
        for (host, port) in &self.brokers {
            // Any of them may be down; but egress to all must be allowed.
            if let Err(why) = egress
                .addresses(host, *port)
                .await
                .map_err(DeliveryError::from)
                && matches!(why, DeliveryError::EgressDenied(_))
            {
                return Err(KafkaSendError::Proxy(why));
            }
        }
        let proxy = Socks5Proxy::open(egress)
            .await
            .map_err(KafkaSendError::ProxyStart)?;
        let brokers = self.brokers.iter();
        let brokers = brokers.map(|(host, port)| format!("{host}:{port}"));
        let mut builder = ClientBuilder::new(brokers.collect())
            .client_id("observer-listener")
            .max_message_size(MAX_ANSWER)
            .socks5_proxy(proxy.address())
            .backoff_config(BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_millis(200),
                base: 2.0,
                deadline: Some(CLIENT_RETRY_TIME),
            });
        if let Some(tls) = &self.tls {
            builder = builder.tls_config(Arc::clone(tls));
        }
        if let Some(login) = &self.login {
            builder = builder.sasl_config(login.clone());
        }
        match builder.build().await {
            Ok(client) => Ok(KafkaCluster {
                client,
                topics: Mutex::default(),
                proxy,
            }),
            Err(error) => Err(KafkaSendError::of(error, &proxy)),
        }
    }
}

fn login(config: &SaslConfig) -> Login {
    let credentials = Credentials::new(
        config.username.reveal().to_owned(),
        config.password.reveal().to_owned(),
    );
    match config.mechanism {
        SaslMechanism::Plain => Login::Plain(credentials),
        SaslMechanism::ScramSha256 => Login::ScramSha256(credentials),
        SaslMechanism::ScramSha512 => Login::ScramSha512(credentials),
    }
}

/// Connected cluster; dropping it closes its connections.
pub(super) struct KafkaCluster {
    client: Client,
    topics: Mutex<HashMap<String, Topic>>,
    pub(super) proxy: Socks5Proxy,
}

struct Topic {
    partitions: Arc<[OnceCell<Arc<PartitionClient>>]>,
    read_at: Instant,
}

impl KafkaCluster {
    /// Returns the partition of a topic that a key belongs to.
    pub(super) async fn partition(
        &self,
        topic: &str,
        key: &[u8],
    ) -> Result<Arc<PartitionClient>, KafkaSendError> {
        let partitions = self.partitions(topic).await?;
        let number = partition(key, partitions.len());
        let no_topic = || KafkaSendError::NoTopic(topic.to_owned());
        let slot = partitions.get(number).ok_or_else(no_topic)?;
        let id = i32::try_from(number).map_err(|_| no_topic())?;
        let made = slot.get_or_try_init(async || {
            let handling = UnknownTopicHandling::Error;
            let client = self.client.partition_client(topic, id, handling).await?;
            Ok(Arc::new(client))
        });
        let client = made
            .await
            .map_err(|error| KafkaSendError::of(error, &self.proxy))?;
        Ok(Arc::clone(client))
    }

    /// Drops the cached metadata of a topic.
    pub(super) async fn drop_topic(&self, topic: &str) {
        self.topics.lock().await.remove(topic);
    }

    async fn partitions(
        &self,
        topic: &str,
    ) -> Result<Arc<[OnceCell<Arc<PartitionClient>>]>, KafkaSendError> {
        let mut topics = self.topics.lock().await;
        let now = Instant::now();
        if let Some(known) = topics.get(topic)
            && now - known.read_at < TOPIC_AGE
        {
            return Ok(Arc::clone(&known.partitions));
        }
        let all = self.client.list_topics().await;
        let all = all.map_err(|error| KafkaSendError::of(error, &self.proxy))?;
        let found = all.iter().find(|one| one.name == topic);
        let Some(count) = found.map(|found| found.partitions.len()) else {
            topics.remove(topic);
            return Err(KafkaSendError::NoTopic(topic.to_owned()));
        };
        let same = topics
            .remove(topic)
            .filter(|known| known.partitions.len() == count);
        let partitions = same.map_or_else(
            || (0..count).map(|_| OnceCell::new()).collect(),
            |known| known.partitions,
        );
        let topic = topic.to_owned();
        let read = Topic {
            partitions: Arc::clone(&partitions),
            read_at: now,
        };
        topics.insert(topic, read);
        Ok(partitions)
    }
}
