//! Dispatch: order, limits and deliveries in flight, from events to attempts to progress.
//!
//! One task owns all of it, so nothing is shared and nothing is locked. It admits events while there
//! is room, runs what the lanes let run, registers in the ledger what is completed, and commits how far
//! that lets each shard go. While there is no room it takes no further batch, and the reader waits.

mod checkpoint_buffer;
mod checkpoint_writer;
mod delivery_lanes;
mod dispatcher;
mod event_span;
mod in_flight;
mod intake;
pub mod lanes;
pub mod ledger;
mod owned_shard;
mod queue_queries;
mod queued_lanes;
mod redriver;
mod stall_detector;
pub mod target_table;

pub(crate) use queued_lanes::MAX_LANES;

pub use checkpoint_writer::{CheckpointWriter, CommitReport};
pub use dispatcher::{Dispatcher, DispatcherConfig};
pub use owned_shard::{ShardCommand, ShardTokens};

use crate::checkpoint::CheckpointError;

/// Dispatch ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// A checkpoint commit failed for good.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A task of dispatch panicked.
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The reader ended without being asked to.
    #[error("the reader ended")]
    Reader,
}
