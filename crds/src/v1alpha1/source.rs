//! Sources: how changes get into the change log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ValueSource, never_null, open};
use crate::config::{OnSlotLost, TableContents};

/// How changes get into the change log. Set exactly one source. Its kind cannot change on an
/// existing listener: each kind numbers and orders changes in its own way, so a stored position
/// would point to the wrong place, and events would be lost or repeated. Create a new listener with
/// another identity instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "[has(self.triggers), has(self.wal)].filter(given, given).size() == 1",
        "message": "give exactly one source, such as triggers: {}",
    },
    {
        "rule": "has(self.triggers) == has(oldSelf.triggers) && has(self.wal) == has(oldSelf.wal)",
        "message": "the kind of source cannot change: stored positions mean nothing to another kind; make a new listener for it",
    },
]))]
pub struct Source {
    /// Triggers on the tracked tables, which write to the table `observer.change_log` in the
    /// transaction of the change. `select observer.track('public.orders')` in the database starts
    /// to log a table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<TriggerSource>,
    /// Write-ahead log of a Postgres server, read through a logical replication slot. One process at a
    /// time reads the slot and writes the changes to the change log, which listeners of the same
    /// `spec.database` share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalSource>,
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
    pub tables: Vec<WalTable>,
}

/// Database that changes are read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceDatabase {
    /// Connection URL, as `postgres://user:password@host:5432/database`. A pooler cannot be between.
    pub url: ValueSource,
}

/// Table of a write-ahead log source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct WalTable {
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

/// Triggers on the tracked tables. There is nothing to set, as tables are tracked in SQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = open)]
pub struct TriggerSource {}

impl Default for Source {
    fn default() -> Self {
        Self {
            triggers: Some(TriggerSource {}),
            wal: None,
        }
    }
}
