//! Validation of the job queue: the rules that its schema cannot say.

use super::redis_server;
use crate::config::{QueueBackend, QueueConfig};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Backend, ObserverListenerSpec};
use crate::validation::context::ValidationContext;

const SHORTEST_LEASE: HumanDuration = HumanDuration::from_secs(5);
const LONGEST_LEASE: HumanDuration = HumanDuration::from_secs(600);
const LONGEST_RETENTION: HumanDuration = HumanDuration::from_secs(720 * 3600);

/// Validates the queue of a listener and returns its configuration.
pub(crate) fn check(
    spec: &ObserverListenerSpec,
    context: &mut ValidationContext<'_>,
) -> QueueConfig {
    let redis = spec
        .redis
        .as_ref()
        .map(|redis| Box::new(redis_server::check(redis, context)));
    let queue = &spec.queue;
    let backend = match (queue.backend, &redis) {
        (Backend::Postgres, _) => QueueBackend::Postgres,
        (Backend::Redis, Some(_)) => QueueBackend::Redis,
        (Backend::Redis, None) => {
            context.error(
                "/spec/queue/backend",
                "is Redis, and there is no `spec.redis`; add `redis: {url: ...}`, or keep jobs in Postgres",
            );
            QueueBackend::Postgres
        }
    };
    let at = |name: &str| field("/spec/queue", name);
    QueueConfig {
        backend,
        redis,
        concurrency: queue.workers.concurrency,
        replicas: queue.workers.replicas,
        max_concurrency_total: queue.max_concurrency_total,
        worker_lease_duration: context.check_range(
            &at("workerLeaseDuration"),
            queue.worker_lease_duration,
            SHORTEST_LEASE,
            LONGEST_LEASE,
        ),
        completed_job_retention: context.check_range(
            &at("completedJobRetention"),
            queue.completed_job_retention,
            HumanDuration::from_secs(0),
            LONGEST_RETENTION,
        ),
    }
}
