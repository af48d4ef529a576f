//! Job queue: deliveries that leave the fast path, because their action is queued or because they wait
//! for a retry.
//!
//! Every job belongs to a FIFO lane: one observer, action and key. Only the first job of a lane can be
//! claimed, together with some of those behind it, and a worker attempts them one after the other. So
//! order within a lane holds for any number of workers. A claim is covered by the lease of its worker,
//! which one heartbeat renews for all of its claims. When a worker misses its heartbeats, its lease
//! expires and its jobs become available to others. Every claim has a generation (a fencing token), and
//! results of an older generation are discarded as stale.
//!
//! [`JobQueue`] has two backends: [`postgres`] and [`redis`].

mod backend;
mod dead_letter;
mod error;
pub mod failpoint;
mod history;
mod job;
pub mod postgres;
pub mod redis;
pub mod sql_transaction;

pub use backend::{
    BackendKind, ClaimRequest, HeartbeatResponse, JobQueue, LaneHead, LanesOfAction,
    MAX_JOBS_PER_LANE, MAX_LANES_PER_QUERY, MaintenanceReport, QueueConfig, QueueStats, WorkerId,
};
pub use dead_letter::DeadLetterSink;
pub use error::{QueueError, describe_error};
pub use job::{
    ClaimToken, ClaimedJob, FinishedClaim, Job, JobFilter, JobOutcome, JobState, JobView, Lane,
    LaneBatch, NewJob, Priority,
};
