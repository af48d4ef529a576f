//! Order, limits and what is in flight: from events to attempts to progress.
//!
//! One task owns all of it, so nothing is shared and nothing is locked. It takes events while
//! there is room, runs what its lanes let run, notes in the ledger what is over, and saves how
//! far that lets each shard go. While there is no room it takes nothing, and the reader waits.

pub(crate) mod checkpoint_buffer;
pub(crate) mod checkpoint_writer;
pub(crate) mod dispatcher;
pub(crate) mod in_flight;
pub(crate) mod owned_shard;
pub(crate) mod queue_spill;
pub(crate) mod queued_lanes;
pub(crate) mod redriver;
pub(crate) mod stall_detector;
pub mod target_table;

pub mod lanes;
pub mod ledger;

mod outcome;

pub(crate) use queued_lanes::MAX_LANES;

pub use checkpoint_writer::CheckpointWriter;
pub use dispatcher::{Dispatcher, Setup};
pub use owned_shard::{Command, Right};

use std::time::Duration;

use crate::checkpoint::CheckpointError;

/// Most attempts under way at once, over all actions, unless one action alone may have more.
pub const MAX_IN_FLIGHT: usize = 512;

/// Most deliveries of an action under way at once that share requests, unless it may have more
/// requests; those of batches do not count towards [`MAX_IN_FLIGHT`].
pub const MAX_TOGETHER: usize = 2048;

/// Most actions that are read and not over.
pub const MAX_PENDING: usize = 8192;

/// Most events beyond the oldest one that is not over.
pub const MAX_AHEAD: usize = 16_384;

/// Most bytes of images of events that are not over; one event more may be taken.
pub const MAX_HELD_BYTES: u64 = 16 << 20;

/// Most jobs that wait to be saved; one event's more may be taken.
pub const MAX_JOBS: usize = 2048;

/// A job that is due is saved after this time at the latest, unless the save before still runs.
pub const SAVE_JOBS_AFTER: Duration = Duration::from_millis(20);

/// Most dead letters that wait to be saved; one event's more may be taken.
pub const MAX_LETTERS: usize = 256;

/// Most dead letters under redrive at once.
pub const MAX_REDRIVES: usize = 64;

/// How often the queue is asked about lanes that have jobs.
pub const ASK_EVERY: Duration = Duration::from_millis(250);

/// How often dead letters to redrive are looked for.
pub const REDRIVE_EVERY: Duration = Duration::from_secs(2);

/// How often shards are looked for that do not get on.
pub const LOOK_FOR_STALLS_EVERY: Duration = Duration::from_secs(1);

/// How long the save of a shard that is let go of may take beyond the drain.
pub const LAST_SAVE: Duration = Duration::from_secs(5);

/// Why dispatch ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// A checkpoint could not be written for good.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A task of dispatch died.
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The reader ended and nobody asked it to.
    #[error("the reader ended")]
    Reader,
}
