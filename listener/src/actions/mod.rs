//! The side effects that an observer may have: one file a kind, one shape for all.
//!
//! An action is compiled once from its configuration and then attempted for each delivery.
//! An attempt never retries by itself: it says what came of it, and dispatch decides.

pub(crate) mod batcher;

#[cfg(test)]
mod echo_tests;
mod email;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod kafka;
mod log;
mod nats;
pub(crate) mod postgres;
mod receiver;
mod redis;
pub mod signature;
mod slack;
mod teams;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{ActionConfig, ActionKind};
use crds::v1alpha1::DEFAULT_MAX_CONCURRENCY;

use tokio::time::Instant;

pub use crate::admission::action_runtime::{ActionRuntime, ActionRuntimeCache, ActionRuntimeError};
use crate::admission::control::AdmissionControl;
pub use crate::admission::endpoint_gate::{Capacity, EndpointRegistry, EndpointStatus};
use crate::admission::host_limits::without_port;
use crate::admission::memory_budget;
pub use crate::admission::redis_limiter::RedisLimiter;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::egress::redaction::Redactor;
use crate::templating::compile_error::CompileError;
pub use crate::templating::template::TemplateError;
pub use postgres::{OwnDatabaseError, verify_own_database};

/// One action of one observer, ready to be attempted.
pub struct Action {
    kind: Kind,
    admission: Arc<AdmissionControl>,
}

enum Kind {
    Webhook(Arc<webhook::Webhook>),
    Slack(Box<slack::Slack>),
    Teams(Box<teams::Teams>),
    Email(Box<email::Email>),
    Postgres(Box<postgres::Postgres>),
    Redis(Box<redis::Redis>),
    Nats(Box<nats::Nats>),
    Kafka(Arc<kafka::Kafka>),
    Log(log::LogLine),
}

impl Action {
    /// Compiles an action; templates are parsed here, once. Needs no network.
    pub fn compile(config: &ActionConfig, runtime: &ActionRuntime) -> Result<Self, CompileError> {
        let most = config.max_concurrency.unwrap_or(runtime.max_concurrency);
        let kind = Kind::compile(&config.kind, most)?;
        let (rate, endpoint) = (config.rate_limit, kind.endpoint());
        let limit = endpoint.and_then(|(_, host)| runtime.egress.host_limit(without_port(host)));
        let wish = config.retry.max_backoff;
        let admission = AdmissionControl {
            gate: runtime.endpoints.gate(endpoint, rate, limit, wish),
            rate_limit: rate,
            runtime: runtime.clone(),
            timeout: config.timeout,
            redactor: Redactor::of_action(&config.kind),
        };
        Ok(Self {
            kind,
            admission: Arc::new(admission),
        })
    }

    /// Finds what [`Action::compile`] would find, with nothing to deliver by.
    pub fn check(config: &ActionConfig) -> Result<(), CompileError> {
        Kind::compile(&config.kind, DEFAULT_MAX_CONCURRENCY).map(drop)
    }

    /// The field with an address that may not be dialled, and why, if there is such a one.
    #[must_use]
    pub fn refused(config: &ActionConfig, runtime: &ActionRuntime) -> Option<(String, String)> {
        let kind = Kind::compile(&config.kind, DEFAULT_MAX_CONCURRENCY).ok()?;
        if let Kind::Postgres(statement) = &kind
            && statement.is_own()
        {
            let denied = runtime.own_database.is_none();
            return denied.then(|| ("postgres".to_owned(), postgres::NOT_ALLOWED.to_owned()));
        }
        let refused = runtime
            .egress
            .denied_literal(without_port(kind.endpoint()?.1))?;
        let field = match kind {
            Kind::Kafka(_) => "brokers",
            Kind::Email(_) => "smtp.host",
            _ => "url",
        };
        Some((format!("{}.{field}", kind.name()), refused.to_string()))
    }

    /// Deadline of one attempt.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.admission.timeout
    }

    /// Most deliveries that share one request; nothing where each has its own.
    #[must_use]
    pub fn max_batch_size(&self) -> Option<usize> {
        match &self.kind {
            Kind::Webhook(webhook) => webhook.max_batch_size(),
            Kind::Kafka(kafka) => kafka.max_batch_size(),
            _ => None,
        }
    }

    /// How many requests would be admitted now; nothing where that is not bounded.
    #[must_use]
    pub fn capacity(&self, now: Instant) -> Option<Capacity> {
        self.admission.gate.capacity(now)
    }

    /// How the receiver is doing; nothing where there is none.
    #[must_use]
    pub fn endpoint_status(&self) -> Option<EndpointStatus> {
        self.admission.gate.endpoint_status(Instant::now())
    }

    /// What would be sent for a delivery, in parts with a label each; secrets are left out.
    pub fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        match &self.kind {
            Kind::Webhook(webhook) => webhook.preview(delivery, now),
            Kind::Slack(slack) => slack.preview(delivery),
            Kind::Teams(teams) => teams.preview(delivery),
            Kind::Email(email) => email.preview(delivery, now),
            Kind::Postgres(postgres) => postgres.preview(delivery),
            Kind::Redis(redis) => redis.preview(delivery),
            Kind::Nats(nats) => nats.preview(delivery),
            Kind::Kafka(kafka) => kafka.preview(delivery, now),
            Kind::Log(log) => log.preview(delivery),
        }
    }

    /// Attempts a delivery, once, within [`Action::timeout`] from when it goes out, if that is
    /// admitted. `now` is what the receiver is told as the time of the attempt.
    pub async fn attempt(&self, delivery: &Delivery, now: DateTime<Utc>) -> Outcome {
        let admission = &self.admission;
        let _memory = memory_budget::reserve(&delivery.event).await;
        match &self.kind {
            Kind::Webhook(webhook) => {
                if let Some(batches) = webhook.batches_for(delivery) {
                    return webhook.join(batches, admission, delivery, now).await;
                }
            }
            Kind::Kafka(kafka) => {
                if let Some(batches) = kafka.batches_for(delivery) {
                    return Box::pin(kafka.join(batches, admission, delivery, now)).await;
                }
            }
            _ => {}
        }
        let admitted = match admission.admit(delivery).await {
            Ok(admitted) => admitted,
            Err(wait) => return Outcome::Deferred(wait),
        };
        let outcome = self
            .kind
            .attempt(&admission.runtime, delivery, now, admission.timeout)
            .await;
        let outcome = admission.redactor.redact_outcome(outcome);
        admitted.complete(&outcome).await;
        outcome
    }
}

impl Kind {
    fn compile(config: &ActionKind, most: u32) -> Result<Self, CompileError> {
        Ok(match config {
            ActionKind::Webhook(config) => {
                Self::Webhook(Arc::new(webhook::Webhook::compile(config, most)?))
            }
            ActionKind::Slack(config) => Self::Slack(Box::new(slack::Slack::compile(config)?)),
            ActionKind::Teams(config) => Self::Teams(Box::new(teams::Teams::compile(config)?)),
            ActionKind::Email(config) => Self::Email(Box::new(email::Email::compile(config)?)),
            ActionKind::Postgres(config) => {
                Self::Postgres(Box::new(postgres::Postgres::compile(config)?))
            }
            ActionKind::Redis(config) => Self::Redis(Box::new(redis::Redis::compile(config)?)),
            ActionKind::Nats(config) => Self::Nats(Box::new(nats::Nats::compile(config)?)),
            ActionKind::Kafka(config) => {
                Self::Kafka(Arc::new(kafka::Kafka::compile(config, most)?))
            }
            ActionKind::Log(config) => Self::Log(log::LogLine::compile(config)?),
        })
    }

    async fn attempt(
        &self,
        runtime: &ActionRuntime,
        delivery: &Delivery,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Outcome {
        // Those that seldom run are boxed, so that each attempt under way takes no more room than a
        // webhook's.
        match self {
            Self::Webhook(webhook) => webhook.attempt(runtime, delivery, now, timeout).await,
            Self::Slack(slack) => slack.attempt(runtime, delivery, now, timeout).await,
            Self::Teams(teams) => teams.attempt(runtime, delivery, now, timeout).await,
            Self::Email(email) => Box::pin(email.attempt(runtime, delivery, now, timeout)).await,
            Self::Postgres(postgres) => {
                Box::pin(postgres.attempt(runtime, delivery, timeout)).await
            }
            Self::Redis(redis) => Box::pin(redis.attempt(runtime, delivery, timeout)).await,
            Self::Nats(nats) => Box::pin(nats.attempt(runtime, delivery, timeout)).await,
            Self::Kafka(kafka) => Box::pin(kafka.attempt(runtime, delivery, now, timeout)).await,
            Self::Log(log) => log.attempt(delivery),
        }
    }

    /// Where it goes: as a key that tells it from others and may hold a secret, and as a host for
    /// people.
    fn endpoint(&self) -> Option<(&str, &str)> {
        match self {
            Self::Webhook(webhook) => Some(webhook.endpoint()),
            Self::Slack(slack) => Some(slack.endpoint()),
            Self::Teams(teams) => Some(teams.endpoint()),
            Self::Email(email) => Some(email.endpoint()),
            Self::Postgres(postgres) => Some(postgres.endpoint()),
            Self::Redis(redis) => Some(redis.endpoint()),
            Self::Nats(nats) => Some(nats.endpoint()),
            Self::Kafka(kafka) => Some(kafka.endpoint()),
            Self::Log(_) => None,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Slack(_) => "slack",
            Self::Teams(_) => "teams",
            Self::Email(_) => "email",
            Self::Postgres(_) => "postgres",
            Self::Redis(_) => "redis",
            Self::Nats(_) => "nats",
            Self::Kafka(_) => "kafka",
            Self::Log(_) => "log",
        }
    }
}

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Action({})", self.kind.name())
    }
}

/// What would be sent: labels, and texts without secrets.
pub type Preview = Vec<(String, String)>;
