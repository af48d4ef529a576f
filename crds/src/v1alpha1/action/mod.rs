//! Actions of an observer: one file for each kind.

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

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ActionCache, never_null};
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

/// Fields of an action of which exactly one is set.
pub(crate) const ACTION_KINDS: [&str; 9] = [
    "webhook", "slack", "teams", "email", "postgres", "redis", "nats", "kafka", "log",
];

/// Action of an observer. Set exactly one kind, such as `webhook` or `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(transform = exactly_one_kind)]
pub struct Action {
    /// Name of the action, 1 to 63 lower case letters, digits and `-`, unique within the observer.
    /// Together with the event's id and the observer's name it identifies a delivery for good.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// CEL condition that the results of lookups must meet for the action to be delivered, 1 to 8192
    /// characters. It can refer to `enrich` beside what `spec.when` can refer to, as in
    /// `enrich.customer.tier == "gold"`. Where it does not hold, the delivery is skipped, and counted
    /// with the outcome `skipped`. Left out, every matching event is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub when: Option<String>,
    /// Sends an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Posts a message to Slack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack: Option<Slack>,
    /// Posts a message to Microsoft Teams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teams: Option<Teams>,
    /// Sends an email.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// Runs a statement in a Postgres database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// Runs a command on a Redis server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Publishes a message to a NATS `JetStream` stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<Nats>,
    /// Produces a record to a Kafka topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    /// Writes a line to the listener's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// Retries of failed attempts.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Timeout of one attempt, 1ms to 5m, or to 1h with `mode: Queued`; default 10s.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// Where attempts are made; default `Inline`. `Inline` makes the first attempt at once, and
    /// retries through the job queue. `Queued` makes every attempt through the job queue, for
    /// actions that take long.
    #[serde(default)]
    pub mode: Mode,
    /// Priority of its jobs; default `Normal`. Jobs of a higher priority are claimed first, even if
    /// others have waited longer.
    #[serde(default)]
    pub priority: Priority,
    /// Most jobs of this action running at once in the whole fleet, 1 to 65536. Left out, as many
    /// run as the workers have room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_concurrency_total: Option<u32>,
    /// Most first attempts of this action in flight at once in one pod, 1 to 4096; a batch counts
    /// as one attempt. Left out, the limit is `spec.delivery.maxConcurrency` of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_concurrency: Option<u32>,
    /// Most attempts per interval. Further deliveries wait in the job queue without using up
    /// attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    /// Order of deliveries; default `Key`. `Key` delivers the events of one key in order: a
    /// delivery waits for earlier ones of the same key, also while they wait for a retry. `None`
    /// keeps no order.
    #[serde(default)]
    pub ordering: Ordering,
    /// Not sending an equal request again for a while. Left out, every delivery is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<ActionCache>,
}

/// Most attempts per interval. If the listener has a Redis server (`spec.redis`), the pods share
/// the limit; otherwise it holds for each pod. Attempts may come in a burst of that size, and after
/// that come evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitSpec {
    /// Number of attempts per interval, 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub attempts: u32,
    /// Length of the interval, 1ms to 24h; default 1s.
    #[serde(default = "default_per")]
    pub per: HumanDuration,
}

/// Retries of failed attempts. The wait before each retry is random, up to a bound that starts at
/// `initialBackoff` and doubles up to `maxBackoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RetryPolicy {
    /// Total number of attempts, including the first, 1 to 100; default 8. After the last one the
    /// delivery has failed; see `onFailure`.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Upper bound of the wait before the second attempt, 1ms to 24h; default 1s.
    #[serde(default = "default_initial_backoff")]
    pub initial_backoff: HumanDuration,
    /// Upper bound of any wait, 1ms to 24h and at least `initialBackoff`; default 10m.
    #[serde(default = "default_max_backoff")]
    pub max_backoff: HumanDuration,
    /// Total time for all attempts, 1s to 8760h, from the first failure on or, with `mode: Queued`,
    /// from the beginning. After it the delivery has failed, even if attempts are left. Left out,
    /// there is no deadline.
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

/// Adds the rule that an action is of exactly one kind.
fn exactly_one_kind(schema: &mut Schema) {
    let given = ACTION_KINDS
        .map(|kind| format!("has(self.{kind})"))
        .join(", ");
    let rule = json!([{
        "rule": format!("[{given}].filter(given, given).size() == 1"),
        "message": "give exactly one thing to do, such as webhook or log",
    }]);
    schema.insert("x-kubernetes-validations".to_owned(), rule);
}

pub(crate) fn default_content_type() -> String {
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
