//! Where each shard stands, kept in Postgres and guarded by epochs.
//!
//! Whoever claims a shard draws a larger epoch than any before. A save names the epoch it was
//! claimed with, moves forward only, and changes nothing when either fails: then another
//! process owns the shard, and the one that finds out must stop work on it at once.

mod claim;
pub(crate) mod commit;
pub(crate) mod reshard;
mod row;
pub mod status;
pub mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::delivery::ActionName;
use serde::{Deserialize, Serialize};

use crate::capture::change_log::LogError;
use crate::capture::position::Position;
use crate::capture::reader::PositionAheadOfDatabase;
use crate::capture::snapshot::Snapshot;

pub use claim::{Candidate, ClaimedShard, begin, claim, life};
pub use commit::{Save, Saved, save};

/// What is done beyond a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// Events of which everything is done, by their id in the log.
    pub finished: BTreeSet<i64>,
    /// Of other events, the actions that are done.
    pub partly: BTreeMap<i64, Vec<ActionName>>,
}

/// What a checkpoint says of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is behind.
    pub position: Position,
    /// What is done beyond it.
    pub beyond: Beyond,
    /// What is done beyond it of keys that belonged to other shards before the number of shards
    /// was changed.
    pub inherited: Arc<[Inherited]>,
}

/// How far a shard was when the listener got another number of shards. It holds for ever of the
/// keys that were this shard's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// How many shards there were.
    pub of: u16,
    /// The shard.
    pub shard: u16,
    /// Everything before it is behind.
    pub position: Position,
    /// What was done beyond it.
    pub beyond: Beyond,
    /// Sees all that was done, also beyond the position: there its owner had read on, maybe
    /// through many windows.
    pub until: Snapshot,
}

impl Inherited {
    /// Whether it says nothing about what comes after a position.
    #[must_use]
    pub fn is_behind(&self, position: &Position) -> bool {
        position.from.snapshot.covers(&self.until)
    }
}

/// `partially_completed` as the table holds it.
#[derive(Serialize, Deserialize)]
struct PartlyDone(i64, Arc<str>, Arc<str>);

/// Why a checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The database could not be asked, or said no.
    #[error("cannot reach the checkpoints: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// Jobs could not be added.
    #[error("cannot add jobs: {0}")]
    Queue(#[from] ::queue::QueueError),
    /// The backend of the queue is not in use any more.
    #[error("the job queue uses another backend now")]
    QueueSwitched,
    /// The mark of this moment could not be taken.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The server recovered from a crash or was promoted since the shards were claimed.
    #[error("Postgres has recovered from a crash, or another server has taken its place")]
    ServerRestarted,
    /// The position belongs to another database.
    #[error(
        "the position of listener {listener} was saved in another database (system identifier {saved}, this one has {here}): \
         nothing was changed. Run `observer-listener reset-position` to go on with all that the log holds, or \
         `observer-listener reset-position --to latest` to go on with what comes next"
    )]
    Foreign {
        /// The listener.
        listener: String,
        /// Where the position was saved: system identifier and database oid.
        saved: String,
        /// This database, likewise.
        here: String,
    },
    /// The position lies ahead of the database.
    #[error(transparent)]
    Ahead(#[from] PositionAheadOfDatabase),
    /// A row that this program cannot have written.
    #[error("the checkpoint of shard {shard} of listener {listener} cannot be read: {reason}")]
    Damaged {
        /// The listener.
        listener: String,
        /// The shard.
        shard: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// Progress that cannot be put into words.
    #[error("the progress cannot be written down: {0}")]
    Unwritable(#[from] serde_json::Error),
}
