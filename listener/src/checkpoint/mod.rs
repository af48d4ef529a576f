//! Checkpoints: the progress of each shard, stored in Postgres and fenced by epochs.
//!
//! Each claim of a shard draws a larger epoch than any before. A commit carries the epoch of its
//! claim, only moves positions forward, and changes nothing when either check fails: then another
//! process owns the shard, and this one must stop work on it at once.

mod claim;
pub(crate) mod commit;
pub(crate) mod reshard;
mod row;
pub mod status;
pub mod stored_rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::delivery::ActionName;
use serde::{Deserialize, Serialize};

use crate::capture::change_log::LogError;
use crate::capture::position::Position;
use crate::capture::reader::PositionAheadOfDatabase;
use crate::capture::snapshot::Snapshot;

pub use claim::{ClaimedShard, ShardClaimant, claim, initialize, server_incarnation};
pub use commit::{CheckpointCommit, CommitResult, write_commit};

/// What is completed ahead of a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompletedAhead {
    /// Ids in the log of events whose actions are all completed.
    pub completed: BTreeSet<i64>,
    /// The completed actions of other events.
    pub partial: BTreeMap<i64, Vec<ActionName>>,
}

/// The progress of a shard, as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is completed.
    pub position: Position,
    /// What is completed ahead of it.
    pub completed_ahead: CompletedAhead,
    /// What was completed of its keys by other shards, before the number of shards changed.
    pub pre_reshard: Arc<[PreReshardProgress]>,
}

/// The progress of a shard when the listener's number of shards changed. It stays true for the keys
/// that the shard had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreReshardProgress {
    /// The number of shards at that time.
    pub shard_count: u16,
    /// The shard.
    pub shard: u16,
    /// Everything before it was completed.
    pub position: Position,
    /// What was completed ahead of it.
    pub completed_ahead: CompletedAhead,
    /// Sees all that was completed, also ahead of the position, where its owner may have read
    /// through many further windows.
    pub until: Snapshot,
}

impl PreReshardProgress {
    /// Returns whether it is irrelevant for all that comes after a position.
    #[must_use]
    pub fn is_passed_by(&self, position: &Position) -> bool {
        position.from.snapshot.covers(&self.until)
    }
}

/// `partially_completed` as the table holds it.
#[derive(Serialize, Deserialize)]
struct PartiallyDone(i64, Arc<str>, Arc<str>);

/// A checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The database was not reachable, or refused.
    #[error("cannot reach the checkpoints: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// Jobs could not be added.
    #[error("cannot add jobs: {0}")]
    Queue(#[from] ::queue::QueueError),
    /// The backend of the queue is no longer in use.
    #[error("the job queue uses another backend now")]
    QueueSwitched,
    /// The current bound of the change log could not be read.
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
    /// This program cannot have written the row.
    #[error("the checkpoint of shard {shard} of listener {listener} cannot be read: {reason}")]
    Corrupted {
        /// The listener.
        listener: String,
        /// The shard.
        shard: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// The progress could not be encoded.
    #[error("the progress cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}
