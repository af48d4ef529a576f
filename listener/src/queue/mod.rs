//! Actions off the fast path: jobs, and those given up on.

mod burial;
pub mod dead_letter;
mod effort;
pub(crate) mod figures;
pub mod job;
mod life;
mod run;
mod upkeep;
pub(crate) mod worker;

use std::sync::Arc;

use ::queue::postgres::PostgresQueue;
use ::queue::{JobQueue, Keeping, QueueError};
use crds::config::{ListenerConfig, QueueBackend};
use sqlx::PgPool;

/// The queue of a listener. Where its jobs are kept in Postgres, `pool` leads there; its dead
/// letters are there in any case.
pub async fn open(
    listener: &ListenerConfig,
    pool: PgPool,
) -> Result<Arc<dyn JobQueue>, QueueError> {
    let keeping = Keeping {
        lease: listener.queue.lease,
        retention: listener.queue.retention,
    };
    let name = listener.identity();
    match &listener.queue.backend {
        QueueBackend::Postgres => Ok(Arc::new(PostgresQueue::new(pool, &name, keeping))),
        QueueBackend::Redis(_) => todo!(),
    }
}
