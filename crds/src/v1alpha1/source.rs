//! Sources: how changes get into the change log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Sasl;
use super::{Tls, ValueSource, never_null};
use crate::config::{InitialOffset, OnOffsetLost, OnSlotLost, TableContents, TopicContents};

/// How changes get into the change log. Set exactly one source. Its kind cannot change on an
/// existing listener: each kind numbers and orders changes in its own way, so a stored position
/// would point to the wrong place, and events would be lost or repeated. Create a new listener with
/// another identity instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "[has(self.triggers), has(self.wal), has(self.kafka)].filter(given, given).size() == 1",
        "message": "give exactly one source, such as triggers: {}",
    },
    {
        "rule": "has(self.triggers) == has(oldSelf.triggers) && has(self.wal) == has(oldSelf.wal) && has(self.kafka) == has(oldSelf.kafka)",
        "message": "the kind of source cannot change: stored positions mean nothing to another kind; make a new listener for it",
    },
]))]
pub struct Source {
    /// Triggers on the tracked tables, which write to the table `observer.change_log` in the
    /// transaction of the change. Tables are listed here, or tracked in the database with
    /// `select observer.track('public.orders')`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<TriggerSource>,
    /// Write-ahead log of a Postgres server, read through a logical replication slot. One process at a
    /// time reads the slot and writes the changes to the change log, which listeners of the same
    /// `spec.database` share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalSource>,
    /// Topics of a Kafka cluster. One process at a time reads them and writes their records to the
    /// change log, with the offsets in the same transaction. Listeners of the same `spec.database`
    /// and the same `name` share a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSource>,
}

/// Topics of a Kafka cluster. Only records of committed transactions are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct KafkaSource {
    /// Name of the source in the change log, 1 to 63 characters; default `kafka`. Listeners that share
    /// it must list the same topics.
    #[serde(default = "default_kafka_name")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Bootstrap brokers, as `host` or `host:9092`, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    pub brokers: Vec<String>,
    /// TLS settings; left out, connections are not encrypted. Use `{}` if the system trusts the
    /// authority of the brokers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// SASL login; left out, the listener does not log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Where the source begins when it is read for the first time; default `Latest`. `Latest` is what
    /// is written from then on, `Earliest` all that the topics hold. Partitions and topics that are
    /// added later are read from their beginning.
    #[serde(default)]
    pub initial_offset: InitialOffset,
    /// What happens when records that were not read are gone, as by the retention of a topic, or a
    /// topic was made again; default `Stop`. `Stop` waits for a person, since changes are missing.
    /// `Earliest` records the gap, and goes on with the earliest record that is there.
    #[serde(default)]
    pub on_offset_lost: OnOffsetLost,
    /// Topics, 1 to 1000.
    #[schemars(length(min = 1, max = 1000))]
    pub topics: Vec<KafkaTopic>,
}

/// Topic whose records are logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct KafkaTopic {
    /// Name of the topic, 1 to 249 characters.
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    pub topic: String,
    /// What its records are, as JSON; default `Debezium`. `Debezium` are changes of rows as its
    /// connectors write them, with or without their schema. `Rows` are the newest state of what the
    /// key identifies: events of operation `Update`, and of operation `Delete` without a value.
    /// `Events` are events of operation `Custom`.
    #[serde(default)]
    pub contents: TopicContents,
    /// Entity of the events, 1 to 255 characters; default is the table that a change names, as
    /// `public.orders`, or else the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub entity: Option<String>,
    /// Fields of the row that identify it, at most 32, of 1 to 63 characters each; default is the
    /// record's key. Records of one key must be in one partition, and deletions must have the whole
    /// row. Not for `Rows`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub key: Vec<String>,
    /// Field of the row that names the tenant, 1 to 63 characters. Not for `Rows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub tenant: Option<String>,
}

fn default_kafka_name() -> String {
    "kafka".to_owned()
}

/// Write-ahead log of a Postgres server, with `wal_level = logical`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct WalSource {
    /// Database whose changes are read; default is `spec.database`. It needs a user with
    /// `replication`, a publication and a slot, and no schema or trigger of this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<SourceDatabase>,
    /// Publication that names the tables, 1 to 63 characters; default `observer`. If it is missing, it
    /// is created for `tables`.
    #[serde(default = "default_publication")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z_][a-z0-9_]*$"))]
    pub publication: String,
    /// Replication slot, 1 to 63 characters; default is `observer_` and the first eight digits of the
    /// change log's identity. If it is missing, it is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9_]+$"))]
    pub slot: Option<String>,
    /// What happens when the slot is gone, invalidated, or ahead of what was read; default `Stop`.
    /// `Stop` waits for a person, since changes are missing. `Recreate` records the gap, and goes on
    /// with a new slot.
    #[serde(default)]
    pub on_slot_lost: OnSlotLost,
    /// Whether a slot that is created is synced to standbys, Postgres 17 and later; default false.
    #[serde(default)]
    pub failover: bool,
    /// Tables, and how their rows are logged, at most 1000. Tables of the publication that are not
    /// listed are logged by their primary key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub tables: Vec<SourceTable>,
}

/// Database that changes are read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceDatabase {
    /// Connection URL, as `postgres://user:password@host:5432/database`. A pooler cannot be between.
    pub url: ValueSource,
}

/// Table whose changes are logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct SourceTable {
    /// Schema and name, as `public.orders`, 3 to 255 characters; of a partitioned table, those of its root.
    #[schemars(length(min = 3, max = 255))]
    pub table: String,
    /// What its rows are; default `Rows`. `Rows` are rows whose changes are events. `EntityChanges` is
    /// the log of entities that a `FraiseQL` application keeps (`core.tb_entity_change_log`): each row that
    /// is inserted is one event, of the entity `<schema>.<object_type>`.
    #[serde(default)]
    pub contents: TableContents,
    /// Columns that identify a row, at most 32, of 1 to 63 characters each; default is the primary key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub key: Vec<String>,
    /// Column that names the tenant, 1 to 63 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub tenant: Option<String>,
    /// Columns that never reach the change log, at most 1000, of 1 to 63 characters each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 63)))]
    pub exclude: Vec<String>,
}

fn default_publication() -> String {
    "observer".to_owned()
}

/// Triggers on the tracked tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct TriggerSource {
    /// Tables that the listener keeps tracked in this way, at most 1000. What is left out of one has its
    /// default, whatever `observer.track` was told before. Other tables are left as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub tables: Vec<SourceTable>,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            triggers: Some(TriggerSource::default()),
            wal: None,
            kafka: None,
        }
    }
}
