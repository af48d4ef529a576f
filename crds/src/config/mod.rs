//! What a listener runs from: resources after validation, defaults and secrets.
//!
//! A value of these types cannot be wrong in itself: durations are positive, names are
//! unique, URLs parse, every secret reference has been replaced by what it refers to.
//! Expressions and templates are kept as text, because only the listener can compile them.

mod action;
mod api;
mod egress;
mod email;
mod enrich;
mod format;
mod kafka;
mod log;
mod nats;
mod postgres;
mod public_address;
mod redis;
mod redis_server;
mod search;
mod server_url;
mod slack;
mod source;
mod teams;
mod tls;
mod webhook;

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use action::{
    ActionConfig, ActionKind, ActionQueue, Mode, OnFailure, Ordering, Priority, RateLimit, Retry,
};
pub use api::{ApiConfig, ApiRole, ApiToken, ConsoleConfig};
pub use egress::{Egress, HostLimit, ProxyConfig};
pub use email::{EmailConfig, SmtpConfig, SmtpTls};
pub use enrich::{
    CacheConfig, HttpLookupConfig, InvalidateOnConfig, LookupConfig, LookupKind, OnLookupError,
    RequestMethod,
};
pub use format::MessageFormat;
pub use kafka::{KafkaConfig, SaslConfig, SaslMechanism};
pub use log::{LogConfig, LogLevel};
pub use nats::NatsConfig;
pub use postgres::{OwnDatabase, PostgresConfig};
pub use public_address::{host_matches, public_blocks};
pub use redis::{RedisCommand, RedisConfig};
pub use redis_server::{RedisServerConfig, RedisTopology};
pub use search::{
    DocumentContent, ElasticsearchConfig, RedactedColumn, SearchBackend, SearchConfig, SearchLogin,
};
pub use server_url::ServerUrl;
pub use slack::SlackConfig;
pub use source::{
    InitialOffset, KafkaSourceConfig, KafkaTopicConfig, OnOffsetLost, OnSlotLost, SourceConfig,
    SourceTableConfig, TableContents, TopicContents, WalSourceConfig,
};
pub use teams::{TeamsConfig, TeamsContent};
pub use tls::TlsConfig;
pub use webhook::{BatchConfig, HeaderValue, Method, WebhookConfig, is_json, is_own_header};

/// A value that never shows itself: `Debug` and `Display` print `[redacted]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Redacted(String);

impl Redacted {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that sends it where it belongs.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What happened to a row, or `Custom` for an event written by `observer.emit`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Operation {
    /// A row came into being.
    Insert,
    /// A row changed and kept its key.
    Update,
    /// A row went away.
    Delete,
    /// A whole table was emptied by `truncate`; such an event has no key and no images.
    Truncate,
    /// Written by `observer.emit`.
    Custom,
    /// Sent by a backfill: the row as it was when it was read.
    Read,
}

impl Operation {
    /// Every operation, in the order of their declaration.
    pub const ALL: [Self; 6] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::Truncate,
        Self::Custom,
        Self::Read,
    ];

    /// The name that users see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "Insert",
            Self::Update => "Update",
            Self::Delete => "Delete",
            Self::Truncate => "Truncate",
            Self::Custom => "Custom",
            Self::Read => "Read",
        }
    }
}

/// Where a listener that has never run begins to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StartAt {
    /// With the oldest event that the log still holds.
    #[default]
    Beginning,
    /// With the first event committed after it starts.
    Now,
    /// With the first event committed after it starts, and with the rows that the tables of its observers
    /// with the operation `Read` have then.
    Backfill,
}

/// Everything one listener runs from.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The listener.
    pub listener: ListenerConfig,
    /// The observers it selected, in order of namespace and name.
    pub observers: Vec<ObserverConfig>,
}

/// A validated `ObserverListener`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Namespace, `default` where the resource names none.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// Name under which it keeps progress and dead letters, where that is not `namespace/name`.
    pub identity: Option<String>,
    /// Times of the Lease that each process holds to say that it lives.
    pub lease: LeaseConfig,
    /// Number of shards, 1 to 256.
    pub shards: u16,
    /// How long a shard with work waiting may make no progress before it counts as stalled.
    pub stalled_after: Duration,
    /// The database whose log is read, and where checkpoints and dead letters are kept.
    pub database_url: Redacted,
    /// What fills the change log.
    pub source: SourceConfig,
    /// Where to begin without a checkpoint.
    pub start_at: StartAt,
    /// Longest pause between two looks at a database in which nothing happens.
    pub max_poll_interval: Duration,
    /// How long events are kept once every listener has them behind it.
    pub retention: Duration,
    /// Time between two checkpoint writes while there is progress.
    pub checkpoint_interval: Duration,
    /// Most attempts of one action under way at once; a batch is one.
    pub max_concurrency: u32,
    /// How long a stop waits for what is under way.
    pub drain_timeout: Duration,
    /// Where actions may connect to beyond public addresses.
    pub egress: Egress,
    /// How long dead letters are kept; until someone redrives or drops them where absent.
    pub dead_letter_retention: Option<Duration>,
    /// The HTTP API; there is none where absent.
    pub api: Option<ApiConfig>,
    /// The job queue.
    pub queue: QueueConfig,
    /// How long cached results are used that have no time of their own.
    pub cache_ttl: Duration,
    /// The history; none is kept where absent.
    pub search: Option<SearchConfig>,
}

/// The job queue of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Where jobs are kept.
    pub backend: QueueBackend,
    /// The Redis of the listener, where there may be jobs from before.
    pub redis: Option<Box<RedisServerConfig>>,
    /// Most keys whose jobs are under way at once in one process.
    pub concurrency: u32,
    /// Pods for jobs alone; where there are none, the listener's own pods work on them.
    pub replicas: u32,
    /// Most jobs under way at once in the whole fleet; no bound of its own where absent.
    pub max_concurrency_total: Option<u32>,
    /// How long after its last sign of life a worker's jobs are others'.
    pub worker_lease_duration: Duration,
    /// How long finished jobs are kept to be looked at.
    pub completed_job_retention: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            backend: QueueBackend::Postgres,
            redis: None,
            concurrency: 16,
            replicas: 0,
            max_concurrency_total: None,
            worker_lease_duration: Duration::from_secs(15),
            completed_job_retention: Duration::ZERO,
        }
    }
}

/// Where jobs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBackend {
    /// In the database, in the transactions of the checkpoints.
    Postgres,
    /// In the listener's Redis.
    Redis,
}

impl ListenerConfig {
    /// The name that owns checkpoints and dead letters: `namespace/name` unless another is given.
    #[must_use]
    pub fn identity(&self) -> String {
        let own = || format!("{}/{}", self.namespace, self.name);
        self.identity.clone().unwrap_or_else(own)
    }

    /// Whether another one differs at most in where actions may go and in who may use the HTTP API, so that
    /// all else that runs by this one can go on.
    #[must_use]
    pub fn differs_in_access_at_most(&self, other: &Self) -> bool {
        let api = match (&self.api, &other.api) {
            (Some(_), Some(_)) => other.api.clone(),
            _ => self.api.clone(),
        };
        Self {
            egress: other.egress.clone(),
            api,
            ..self.clone()
        } == *other
    }
}

/// Times of a Lease: `duration > renew_deadline > 1.2 x retry_period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long after its last renewal a process counts as gone and others take its shards.
    pub duration: Duration,
    /// How long after its last renewal a process stops its work by itself.
    pub renew_deadline: Duration,
    /// Time between two tries to renew when one has failed.
    pub retry_period: Duration,
}

/// A validated `Observer`.
#[derive(Clone, Debug)]
pub struct ObserverConfig {
    /// Namespace, `default` where the resource names none.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// Entity it watches: `schema.table`, or the name given to `observer.emit`.
    pub entity: String,
    /// Operations it watches; never empty, no repeats.
    pub operations: Vec<Operation>,
    /// The tenant whose events alone it sees; every event where absent.
    pub tenant: Option<String>,
    /// CEL condition; always true where absent.
    pub when: Option<String>,
    /// What becomes of deliveries that are given up.
    pub on_failure: OnFailure,
    /// Lookups, names unique; each may use those before it.
    pub enrich: Vec<LookupConfig>,
    /// Actions; never empty, names unique.
    pub actions: Vec<ActionConfig>,
    /// SHA-256 of its spec as it was written, with the names of secrets and without what they hold.
    pub digest: [u8; 32],
}

impl ObserverConfig {
    /// `namespace/name`.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
