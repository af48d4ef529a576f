//! What the suite needs of a backend, and what it makes jobs and workers with.

pub(crate) mod builders;
pub(crate) mod database;
pub(crate) mod faulty_workers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use observer_queue::{JobQueue, QueueConfig};
use sqlx::PgPool;

pub(crate) use testkit::seed::seed;
pub(crate) use testkit::wait::{STALLED, eventually};

/// Name of the listener whose jobs a test has.
pub(crate) const LISTENER: &str = "shop/main";

/// Configuration without finished jobs, under a lease that no test waits for.
pub(crate) const CALM: QueueConfig = QueueConfig {
    lease: Duration::from_mins(10),
    retention: Duration::ZERO,
};

/// The same under a lease that passes soon.
pub(crate) const HASTY: QueueConfig = QueueConfig {
    lease: Duration::from_millis(1500),
    retention: Duration::ZERO,
};

/// One backend, with a place of the test's own in it.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// A queue of a listener as one more process opens it, with connections of its own.
    async fn open(&self, listener: &str, config: QueueConfig) -> Arc<dyn JobQueue>;

    /// Where checkpoints and dead letters are; for the backend in Postgres, jobs too. It never
    /// goes away when the queue's server does, unless that is the same one.
    fn pool(&self) -> &PgPool;

    /// Whether adding jobs is part of the transaction.
    fn transactional(&self) -> bool;

    /// Breaks all connections to the queue's server that are open now.
    async fn cut_connections(&self);

    /// Stops the queue's server; only for a fixture with a server of its own.
    async fn stop(&self);

    /// Stops it as a crash would.
    async fn crash(&self);

    /// Starts it again.
    async fn resume(&self);
}
