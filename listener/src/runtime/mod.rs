//! Running: sessions of a listener, by the configuration of files or of a bundle in a cluster.

mod background;
mod bundle_source;
pub mod cluster;
pub mod config_source;
mod database_context;
pub(crate) mod drop_listener;
pub mod error;
mod error_reason;
pub mod fixed_listener;
mod health_tick;
pub mod job_worker;
mod known_observers;
pub mod plan;
mod session;
mod session_tasks;
mod shard_worker;
mod startup_log;
mod stored_bundle;
pub mod supervisor;
mod tracking_watch;
