//! The rules for a job queue that its schema cannot say.

use super::checks::Checks;
use super::report::field;
use crate::config::{QueueBackend, QueueConfig, Redacted};
use crate::duration::Span;
use crate::resources::{Backend, ObserverListenerSpec, RedisServer};

const SHORTEST_LEASE: Span = Span::from_secs(5);
const LONGEST_LEASE: Span = Span::from_secs(600);
const LONGEST_RETENTION: Span = Span::from_secs(720 * 3600);

/// The queue of a listener.
pub(super) fn check(spec: &ObserverListenerSpec, checks: &mut Checks<'_>) -> QueueConfig {
    let redis = spec.redis.as_ref().map(|redis| redis_url(redis, checks));
    let queue = &spec.queue;
    let backend = match (queue.backend, redis.clone()) {
        (Backend::Postgres, _) => QueueBackend::Postgres,
        (Backend::Redis, Some(url)) => QueueBackend::Redis(url),
        (Backend::Redis, None) => {
            checks.wrong(
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
        worker_lease_duration: checks.bounded(
            &at("workerLeaseDuration"),
            queue.worker_lease_duration,
            SHORTEST_LEASE,
            LONGEST_LEASE,
        ),
        completed_job_retention: checks.bounded(
            &at("completedJobRetention"),
            queue.completed_job_retention,
            Span::from_secs(0),
            LONGEST_RETENTION,
        ),
    }
}

fn redis_url(redis: &RedisServer, checks: &mut Checks<'_>) -> Redacted {
    let Some((at, url)) = checks.resolve("/spec/redis/url", &redis.url) else {
        return Redacted::default();
    };
    let text = url.reveal();
    if !text.starts_with("redis://") && !text.starts_with("rediss://") {
        checks.wrong(
            &at,
            "is not the URL of a Redis server; write redis://user:password@host:6379/0, or rediss:// for TLS",
        );
    }
    url
}
