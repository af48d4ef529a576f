//! Job worker and the listener's side of the job queue.

pub mod backend;
pub(crate) mod completer;
pub(crate) mod dead_letter_writer;
pub(crate) mod heartbeat;
pub(crate) mod lane_executor;
pub(crate) mod maintenance;
pub mod payload;
pub(crate) mod prefetch;
pub(crate) mod queue_metrics;
pub(crate) mod ready_batches;
pub(crate) mod reports;
pub(crate) mod worker;
pub(crate) mod worker_config;
