//! Sources of the change log, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Redacted;

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
    pub tables: Vec<WalTableConfig>,
}

/// How rows of a table are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalTableConfig {
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
