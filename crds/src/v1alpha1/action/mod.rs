//! What an observer does: one file for each kind of action.

mod batch;
mod email;
mod kafka;
mod log;
mod nats;
mod postgres;
mod redis;
mod slack;
mod teams;
mod webhook;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;
use crate::config::{Mode, Ordering, Priority, Retry};
use crate::duration::HumanDuration;

pub use batch::Batch;
pub use email::{Email, Smtp};
pub use kafka::{Kafka, Sasl};
pub use log::Log;
pub use nats::Nats;
pub use postgres::Postgres;
pub use redis::{Redis, RedisDelete, RedisPublish, RedisSet, RedisStreamAppend};
pub use slack::Slack;
pub use teams::Teams;
pub use webhook::Webhook;

/// One side effect. Give exactly one thing to do, such as `webhook` or `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.webhook), has(self.slack), has(self.teams), has(self.email), has(self.postgres), has(self.redis), has(self.nats), has(self.kafka), has(self.log)].filter(given, given).size() == 1",
    "message": "give exactly one thing to do, such as webhook or log",
}]))]
pub struct Action {
    /// Name, unlike that of any other action of this observer: lower case letters, digits and
    /// `-`. With the event's id and the observer's name it identifies a delivery for ever.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Send an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Send a message to Slack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack: Option<Slack>,
    /// Send a message to Microsoft Teams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teams: Option<Teams>,
    /// Send an email.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// Run a statement in a Postgres database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// Tell a Redis server something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Publish a message to a stream of NATS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<Nats>,
    /// Write a record to a topic of Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    /// Write a line to the listener's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// When and how often to try again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Deadline of one attempt, 1ms to 5m, or to 1h with `mode: Queued`.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// `Inline` makes the first attempt at once and further ones by the job queue. `Queued` makes
    /// all of them by the queue, which is for what takes long.
    #[serde(default)]
    pub mode: Mode,
    /// How soon its jobs are taken, before those that are due earlier.
    #[serde(default)]
    pub priority: Priority,
    /// Most jobs of this action under way at once in the whole fleet, 1 to 65536. Left out, as many
    /// as the workers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_concurrency_total: Option<u32>,
    /// Most first attempts of this action under way at once in one pod, 1 to 4096; a batch is one.
    /// Left out, as many as `spec.delivery.maxConcurrency` of the listener says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_concurrency: Option<u32>,
    /// Most attempts within a time. What is beyond it waits in the job queue and costs no attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    /// `Key` makes a delivery wait for those before it of the same key, also while these wait to be
    /// attempted again. `None` lets none wait for another.
    #[serde(default)]
    pub ordering: Ordering,
}

/// At most so many attempts within a time: in all pods together where the listener has a Redis
/// (`spec.redis`), and in each pod else. They may come at once, and after that they come evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitSpec {
    /// How many, 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub attempts: u32,
    /// Within which time, 1ms to 24h.
    #[serde(default = "default_per")]
    pub per: HumanDuration,
}

/// When and how often to try again. The wait before each further attempt is drawn at random up to
/// a bound that begins at `initialBackoff` and doubles up to `maxBackoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RetryPolicy {
    /// Attempts in all, the first included, 1 to 100. Then it becomes a dead letter.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Bound of the wait before the second attempt, 1ms to 24h.
    #[serde(default = "default_initial_backoff")]
    pub initial_backoff: HumanDuration,
    /// Bound of any wait, 1ms to 24h and no shorter than `initialBackoff`.
    #[serde(default = "default_max_backoff")]
    pub max_backoff: HumanDuration,
    /// How long it may take in all, from its first failure on (with `mode: Queued`, from the
    /// beginning), 1s to 8760h. What takes longer becomes a dead letter, however many attempts are
    /// left. Left out, it may take as long as they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<HumanDuration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: default_attempts(),
            initial_backoff: default_initial_backoff(),
            max_backoff: default_max_backoff(),
            deadline: None,
        }
    }
}

fn default_content_type() -> String {
    "application/json".into()
}

fn default_per() -> HumanDuration {
    HumanDuration::from_secs(1)
}

fn default_timeout() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn default_attempts() -> u32 {
    Retry::default().attempts
}

fn default_initial_backoff() -> HumanDuration {
    Retry::default().initial_backoff.into()
}

fn default_max_backoff() -> HumanDuration {
    Retry::default().max_backoff.into()
}
