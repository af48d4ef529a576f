//! The job queue of a listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;
use crate::config::QueueConfig;
use crate::duration::HumanDuration;

/// Job queue of a listener. It holds retries, the deliveries that wait behind them, and all
/// deliveries of actions with `mode: Queued`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Queue {
    /// Where jobs are stored; default `Postgres`. `Postgres` stores them in the listener's
    /// database, in the transactions of the checkpoints. `Redis` stores them on the server of
    /// `spec.redis`, and is as durable as that server.
    #[serde(default)]
    pub backend: Backend,
    /// Workers, which run the jobs.
    #[serde(default)]
    pub workers: Workers,
    /// Most jobs running at once in the whole fleet, 1 to 65536. Left out, as many run as the
    /// workers have room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_concurrency_total: Option<u32>,
    /// Time after a worker's last heartbeat when its jobs are given to other workers, 5s to 10m;
    /// default 15s. It is not related to the Leases of `spec.lease`.
    #[serde(default = "default_worker_lease_duration")]
    pub worker_lease_duration: HumanDuration,
    /// Time that completed jobs are kept for inspection, 0s to 720h; default 0s.
    #[serde(default = "default_completed_job_retention")]
    pub completed_job_retention: HumanDuration,
}

/// Backend of the job queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// Tables of the listener's database.
    #[default]
    Postgres,
    /// Streams of a Redis server.
    Redis,
}

/// Workers of the job queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workers {
    /// Most keys with running jobs in one pod, 1 to 1024; default 16. Jobs of one action and key
    /// run one after the other.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 1024))]
    pub concurrency: u32,
    /// Number of dedicated worker pods, 0 to 256; default 0. With 0, the listener's own pods run
    /// the jobs beside their shards.
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
