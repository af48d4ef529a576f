//! What became of an event, as far as the change log, the checkpoints, the jobs and the dead letters tell.
//!
//! Nothing is written for this: an event that its shard's checkpoint has passed, and that is neither a job
//! nor a dead letter, was delivered. What the log no longer holds is not known any more.

pub mod events;
pub mod outcome;
pub mod past;
