//! The job queue of a listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ValueSource, never_null};
use crate::config::QueueConfig;
use crate::duration::HumanDuration;

/// A Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisServer {
    /// The server, as `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    pub url: ValueSource,
}

/// Where actions go that take long or are to be attempted again, and who works on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Queue {
    /// `Postgres` keeps jobs in the database of the change log, in the transactions of the
    /// checkpoints. `Redis` keeps them in the server that `spec.redis` names, and is as durable as
    /// that one.
    #[serde(default)]
    pub backend: Backend,
    /// Who works on jobs.
    #[serde(default)]
    pub workers: Workers,
    /// Most jobs under way at once in all pods together, 1 to 65536. Left out, there may be as many
    /// as the pods have room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_concurrency_total: Option<u32>,
    /// How long after its last sign of life a pod's jobs are given to others, 5s to 10m.
    #[serde(default = "default_worker_lease_duration")]
    pub worker_lease_duration: HumanDuration,
    /// How long finished jobs are kept to be looked at, 0s to 720h.
    #[serde(default = "default_completed_job_retention")]
    pub completed_job_retention: HumanDuration,
}

/// Which queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// Tables of the database.
    #[default]
    Postgres,
    /// Streams of a Redis server.
    Redis,
}

/// Who works on jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workers {
    /// Most keys whose jobs are under way at once in one pod, 1 to 1024.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
    /// Number of pods that do nothing else, 0 to 256. With 0, the pods of the listener work on
    /// jobs beside their shards.
    #[serde(default)]
    #[schemars(range(min = 0, max = 256))]
    pub replicas: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            workers: Workers::default(),
            max_concurrency_total: None,
            worker_lease_duration: default_worker_lease_duration(),
            completed_job_retention: default_completed_job_retention(),
        }
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            concurrency: default_concurrency(),
            replicas: 0,
        }
    }
}

fn default_worker_lease_duration() -> HumanDuration {
    QueueConfig::default().worker_lease_duration.into()
}

fn default_completed_job_retention() -> HumanDuration {
    QueueConfig::default().completed_job_retention.into()
}

fn default_concurrency() -> u32 {
    QueueConfig::default().concurrency
}
