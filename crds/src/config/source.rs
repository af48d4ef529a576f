//! Sources of the change log, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Redacted, SaslConfig, TlsConfig};

/// What fills the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// Triggers of the tables; those that are kept tracked as they are listed.
    Triggers(Vec<SourceTableConfig>),
    /// The write-ahead log of a server.
    Wal(Box<WalSourceConfig>),
    /// Topics of Kafka.
    Kafka(Box<KafkaSourceConfig>),
}

impl SourceConfig {
    /// Returns the write-ahead log, if that is the source.
    #[must_use]
    pub fn wal(&self) -> Option<&WalSourceConfig> {
        match self {
            Self::Wal(source) => Some(source),
            Self::Triggers(_) | Self::Kafka(_) => None,
        }
    }

    /// Returns the tables that triggers are to log, if that is the source.
    #[must_use]
    pub fn tracked_tables(&self) -> &[SourceTableConfig] {
        match self {
            Self::Triggers(tables) => tables,
            Self::Wal(_) | Self::Kafka(_) => &[],
        }
    }
}

/// Topics of Kafka as a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSourceConfig {
    /// Name of the source in the change log.
    pub name: String,
    /// Names or IPv4 addresses of brokers with their ports; at least one.
    pub brokers: Vec<(String, u16)>,
    /// What an encrypted connection needs; not encrypted where absent.
    pub tls: Option<TlsConfig>,
    /// How to log in; nobody does where absent.
    pub sasl: Option<SaslConfig>,
    /// Where the first process of the source begins.
    pub initial_offset: InitialOffset,
    /// What happens when records that come next are gone.
    pub on_offset_lost: OnOffsetLost,
    /// The topics; at least one.
    pub topics: Vec<KafkaTopicConfig>,
}

/// A topic whose records are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaTopicConfig {
    /// Name of the topic.
    pub topic: String,
    /// What its records are.
    pub contents: TopicContents,
    /// The entity; the table of a change, or else the topic, where absent.
    pub entity: Option<String>,
    /// Fields that identify a row; the record's key where empty.
    pub key: Vec<String>,
    /// Field that names the tenant.
    pub tenant: Option<String>,
}

/// What the records of a topic are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TopicContents {
    /// Changes of rows in the form of Debezium.
    #[default]
    Debezium,
    /// The newest state of what the key identifies, or none if it is deleted.
    Rows,
    /// Events that applications write.
    Events,
}

/// Where a source begins that was never read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InitialOffset {
    /// With what is written from then on.
    #[default]
    Latest,
    /// With all that the topics hold.
    Earliest,
}

/// What happens when the records after the saved offset are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnOffsetLost {
    /// Nothing is read until a person has decided.
    #[default]
    Stop,
    /// The gap is recorded, and reading goes on with the earliest record that is there.
    Earliest,
}

/// The write-ahead log of a server as a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalSourceConfig {
    /// The database whose changes are read.
    pub database_url: Redacted,
    /// Whether that is the database of the change log.
    pub is_log_database: bool,
    /// The publication.
    pub publication: String,
    /// The slot; named after the change log where absent.
    pub slot: Option<String>,
    /// What happens when the slot is lost.
    pub on_slot_lost: OnSlotLost,
    /// Whether a slot that is created is synced to standbys.
    pub failover: bool,
    /// How rows of tables are logged; of others, by their primary key.
    pub tables: Vec<SourceTableConfig>,
}

/// How rows of a table are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTableConfig {
    /// Schema and name.
    pub table: String,
    /// What its rows are.
    pub contents: TableContents,
    /// Columns that identify a row; the primary key where empty.
    pub key: Vec<String>,
    /// Column that names the tenant.
    pub tenant: Option<String>,
    /// Columns that are left out.
    pub exclude: Vec<String>,
}

/// What happens when the slot of a source is gone, invalidated, or ahead of what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnSlotLost {
    /// Nothing is read until a person has decided.
    #[default]
    Stop,
    /// The gap is recorded, and a new slot is read.
    Recreate,
}

/// What the rows of a table are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TableContents {
    /// Rows whose changes are events.
    #[default]
    Rows,
    /// A `FraiseQL` application's log of entities, each row of which is an event.
    EntityChanges,
}
