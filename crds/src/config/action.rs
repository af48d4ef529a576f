//! What an observer does, after validation.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CacheConfig, EmailConfig, KafkaConfig, LogConfig, NatsConfig, PostgresConfig, RedisConfig,
    SlackConfig, TeamsConfig, WebhookConfig,
};

/// One action of an observer.
#[derive(Clone, Debug)]
pub struct ActionConfig {
    /// Name, unique within the observer.
    pub name: String,
    /// CEL condition over the event and its lookups; always true where absent.
    pub when: Option<String>,
    /// What it does.
    pub kind: ActionKind,
    /// When and how often to try again.
    pub retry: Retry,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// How it goes by the queue.
    pub queue: ActionQueue,
    /// What its deliveries wait for.
    pub ordering: Ordering,
    /// Most attempts within a time, in one process; no bound of its own where absent.
    pub rate_limit: Option<RateLimit>,
    /// Most first attempts under way at once in one process; that of the listener where absent.
    pub max_concurrency: Option<u32>,
    /// Not sending an equal request again for a while; every delivery is sent where absent.
    pub cache: Option<CacheConfig>,
}

/// What deliveries of an action wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ordering {
    /// For the one before of the same key.
    #[default]
    Key,
    /// For none.
    None,
}

/// At most so many attempts within a time. They may come at once; after that they come evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// At least 1.
    pub attempts: u32,
    /// Not zero.
    pub per: Duration,
}

impl RateLimit {
    /// Time between two attempts that come evenly.
    #[must_use]
    pub fn each(&self) -> Duration {
        self.per / self.attempts.max(1)
    }

    /// How far ahead of an even flow attempts may be.
    #[must_use]
    pub fn tolerance(&self) -> Duration {
        self.per.saturating_sub(self.each())
    }
}

/// How an action goes by the job queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionQueue {
    /// Whether all of its attempts do.
    pub mode: Mode,
    /// How soon its jobs are claimed.
    pub priority: Priority,
    /// Most jobs of it under way at once in the whole fleet; no bound of its own where absent.
    pub max_concurrency_total: Option<u32>,
}

/// Where the first attempt of an action is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// At once; only further attempts go by the queue.
    #[default]
    Inline,
    /// By the queue, as all others: for what takes long.
    Queued,
}

/// What becomes of a delivery that is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// It is kept.
    #[default]
    DeadLetter,
    /// It is counted and let go.
    Drop,
}

/// How soon jobs are claimed, before when they are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Priority {
    /// Before all others.
    High,
    /// As they come.
    #[default]
    Normal,
    /// After all others.
    Low,
}

/// What an action does.
#[derive(Clone, Debug)]
pub enum ActionKind {
    /// Sends an HTTP request.
    Webhook(WebhookConfig),
    /// Sends a message to Slack.
    Slack(SlackConfig),
    /// Sends a message to Microsoft Teams.
    Teams(TeamsConfig),
    /// Sends an email.
    Email(EmailConfig),
    /// Runs a statement in a Postgres database.
    Postgres(PostgresConfig),
    /// Tells a Redis server something.
    Redis(RedisConfig),
    /// Publishes a message to a stream of NATS.
    Nats(NatsConfig),
    /// Writes a record to a topic of Kafka.
    Kafka(KafkaConfig),
    /// Writes a line to the listener's log.
    Log(LogConfig),
}

/// When to try again, and when to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included; at least 1.
    pub attempts: u32,
    /// Upper bound of the wait before the second attempt; doubles with each further one.
    pub initial_backoff: Duration,
    /// Upper bound of any wait.
    pub max_backoff: Duration,
    /// After this long in the job queue no further attempt is made; no such bound where absent.
    pub deadline: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 8,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_mins(10),
            deadline: None,
        }
    }
}
