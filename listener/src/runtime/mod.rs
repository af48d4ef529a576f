//! Running: a session of a listener, from files or as a pod of a cluster.

pub(crate) mod startup_log;
pub(crate) mod tracking_watch;

pub(crate) mod bundle_watcher;
pub mod cluster;
pub(crate) mod drop_listener;
pub mod error;
pub(crate) mod error_reason;
pub(crate) mod job_worker;
pub(crate) mod plan;
pub(crate) mod pod_supervisor;
pub(crate) mod session;
pub(crate) mod shard_worker;
pub mod standalone;
