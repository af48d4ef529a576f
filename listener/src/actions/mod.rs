//! The side effects that an observer may have: one file a kind, one shape for all.
//!
//! An action is compiled once from its configuration and then attempted for each delivery.
//! An attempt never retries by itself: it says what came of it, and dispatch decides.

mod answer;
mod batch;
mod body;
mod bounded;
pub mod breaker;
mod budget;
#[cfg(test)]
mod echo_tests;
mod egress;
mod email;
mod endpoint;
mod escape;
mod filters;
#[cfg(test)]
mod fixture;
mod fleet;
mod gate;
mod hosts;
mod image;
mod kafka;
mod log;
mod nats;
mod number;
mod passage;
pub(crate) mod postgres;
mod proxy;
mod rate;
mod receiver;
mod redis;
mod scope;
mod scrub;
mod shared;
pub mod signature;
mod slack;
mod teams;
mod template;
#[cfg(test)]
mod test_tls;
mod tls;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{ActionConfig, ActionKind};
use crds::v1alpha1::DEFAULT_MAX_CONCURRENCY;
use sha2::{Digest, Sha256};

use tokio::time::Instant;

use crate::event::Event;
use crate::hex::hex;

pub use fleet::Fleet;
pub use gate::{Gates, Room, Standing};
use hosts::without_port;
use passage::Passage;
pub use postgres::{OwnDatabaseError, verify_own_database};
use scrub::Scrub;
pub use shared::{Kept, Shared, SharedError};
pub use template::Flaw;

/// Most bytes of a request's body, and of anything that a template produces.
pub const MAX_BODY: usize = 16 * 1024 * 1024;

/// Why an action's configuration cannot be compiled. Places are relative to the action, as in
/// `webhook.body`; no text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A template is wrong.
    #[error("{place}, {flaw}")]
    Template {
        /// Where the template stands.
        place: String,
        /// What is wrong with it.
        #[source]
        flaw: Flaw,
    },
    /// A field holds what cannot be used.
    #[error("{place} {what}")]
    Field {
        /// The field.
        place: String,
        /// What is wrong with it, and the remedy.
        what: String,
    },
}

impl CompileError {
    /// The value of the field at `place` cannot be used; `what` goes on after its name.
    pub(in crate::actions) fn field(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Field {
            place: place.into(),
            what: what.into(),
        }
    }

    /// The field of the action that is at fault, as in `webhook.body`.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Template { place, .. } | Self::Field { place, .. } => place.clone(),
        }
    }
}

/// One action of one observer, ready to be attempted.
pub struct Action {
    kind: Kind,
    passage: Arc<Passage>,
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
    Log(log::Log),
}

impl Action {
    /// Compiles an action; templates are parsed here, once. Needs no network.
    pub fn compile(config: &ActionConfig, shared: &Shared) -> Result<Self, CompileError> {
        let most = config.max_concurrency.unwrap_or(shared.max_in_flight);
        let kind = Kind::compile(&config.kind, most)?;
        let (rate, endpoint) = (config.rate_limit, kind.endpoint());
        let limit = endpoint.and_then(|(_, host)| shared.guard.limit(without_port(host)));
        let wish = config.retry.max_backoff;
        let passage = Passage {
            gate: shared.gates.gate(endpoint, rate, limit, wish),
            rate_limit: rate,
            shared: shared.clone(),
            timeout: config.timeout,
            scrub: Scrub::of_action(&config.kind),
        };
        Ok(Self {
            kind,
            passage: Arc::new(passage),
        })
    }

    /// Finds what [`Action::compile`] would find, with nothing to deliver by.
    pub fn check(config: &ActionConfig) -> Result<(), CompileError> {
        Kind::compile(&config.kind, DEFAULT_MAX_CONCURRENCY).map(drop)
    }

    /// The field with an address that may not be dialled, and why, if there is such a one.
    #[must_use]
    pub fn refused(config: &ActionConfig, shared: &Shared) -> Option<(String, String)> {
        let kind = Kind::compile(&config.kind, DEFAULT_MAX_CONCURRENCY).ok()?;
        if let Kind::Postgres(statement) = &kind
            && statement.is_own()
        {
            let denied = shared.own_database.is_none();
            return denied.then(|| ("postgres".to_owned(), postgres::NOT_ALLOWED.to_owned()));
        }
        let refused = shared.guard.refused(without_port(kind.endpoint()?.1))?;
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
        self.passage.timeout
    }

    /// Most deliveries that share one request; nothing where each has its own.
    #[must_use]
    pub fn together(&self) -> Option<usize> {
        match &self.kind {
            Kind::Webhook(webhook) => webhook.together(),
            Kind::Kafka(kafka) => kafka.together(),
            _ => None,
        }
    }

    /// How many requests would be admitted now; nothing where that is not bounded.
    #[must_use]
    pub fn room(&self, now: Instant) -> Option<Room> {
        self.passage.gate.room(now)
    }

    /// How the receiver is doing; nothing where there is none.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        self.passage.gate.standing()
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
        let passage = &self.passage;
        let _room = budget::room(&delivery.event).await;
        match &self.kind {
            Kind::Webhook(webhook) => {
                if let Some(batches) = webhook.batches_for(delivery) {
                    return webhook.join(batches, passage, delivery, now).await;
                }
            }
            Kind::Kafka(kafka) => {
                if let Some(batches) = kafka.batches_for(delivery) {
                    return Box::pin(kafka.join(batches, passage, delivery, now)).await;
                }
            }
            _ => {}
        }
        let admitted = match passage.enter(delivery).await {
            Ok(admitted) => admitted,
            Err(wait) => return Outcome::Held(wait),
        };
        let outcome = self
            .kind
            .attempt(&passage.shared, delivery, now, passage.timeout)
            .await;
        let outcome = passage.scrub.outcome(outcome);
        admitted.leave(&outcome).await;
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
            ActionKind::Log(config) => Self::Log(log::Log::compile(config)?),
        })
    }

    async fn attempt(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Outcome {
        // Those that seldom run are boxed, so that each attempt under way takes no more room than a
        // webhook's.
        match self {
            Self::Webhook(webhook) => webhook.attempt(shared, delivery, now, timeout).await,
            Self::Slack(slack) => slack.attempt(shared, delivery, now, timeout).await,
            Self::Teams(teams) => teams.attempt(shared, delivery, now, timeout).await,
            Self::Email(email) => Box::pin(email.attempt(shared, delivery, now, timeout)).await,
            Self::Postgres(postgres) => Box::pin(postgres.attempt(shared, delivery, timeout)).await,
            Self::Redis(redis) => Box::pin(redis.attempt(shared, delivery, timeout)).await,
            Self::Nats(nats) => Box::pin(nats.attempt(shared, delivery, timeout)).await,
            Self::Kafka(kafka) => Box::pin(kafka.attempt(shared, delivery, now, timeout)).await,
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

/// The name of a delivery for ever (`webhook-id`): the event's id, a dot, and 16 hexadecimal
/// digits that stand for the observer (`namespace/name`) and its action.
#[must_use]
pub fn delivery_id(event_id: &str, observer: &str, action: &str) -> String {
    let digest = Sha256::digest(format!("{observer}\n{action}"));
    format!("{event_id}.{}", hex(&digest[..8]))
}

/// One action of one observer on one event.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Names the replay that it is part of; nothing for a first delivery.
    pub replay: Option<Arc<str>>,
}

impl Delivery {
    /// Its name for ever; see [`delivery_id`].
    #[must_use]
    pub fn id(&self) -> String {
        delivery_id(&self.event.id, &self.observer, &self.action)
    }

    /// The name of what takes effect once: a replay does once more.
    #[must_use]
    pub fn effect_id(&self) -> String {
        match &self.replay {
            Some(replay) => format!("{}~{replay}", self.id()),
            None => self.id(),
        }
    }
}

/// What would be sent: labels, and texts without secrets.
pub type Preview = Vec<(String, String)>;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It may work later, not before `after` where the receiver named a time.
    Retry {
        /// What went wrong.
        failure: Failure,
        /// The receiver's own wish (`Retry-After`).
        after: Option<Duration>,
    },
    /// It will never work as it is.
    Refused(Failure),
    /// It was not made: not before this time from now, since the receiver is down or a limit is
    /// reached.
    Held(Duration),
}

impl Outcome {
    /// Whether the connection that it came about by is of no further use.
    fn breaks_connection(&self) -> bool {
        use FailureKind::{Connection, Response, Timeout};
        matches!(
            self,
            Self::Retry { failure, .. } if matches!(failure.kind, Connection | Response | Timeout)
        )
    }
}

/// Why an attempt failed, in words that hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, as metrics and dead letters name it.
    pub kind: FailureKind,
    /// For a person: what happened, and what to do about it.
    pub message: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// What it tells of the receiver, if it may pass.
    pub tells: Tells,
}

/// What a failure tells of the receiver, apart from the delivery at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tells {
    /// Nothing: this side is set up wrongly, or nothing was sent.
    Nothing,
    /// It is there, and others may fare better.
    There,
    /// It failed; the delivery may be why.
    #[default]
    Failed,
    /// It cannot be reached, whatever the delivery.
    Away,
}

impl Failure {
    /// A failure without a status.
    #[must_use]
    pub fn of(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            status: None,
            tells: Tells::default(),
        }
    }
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The event's content cannot be processed (images that do not parse, or too large).
    Event,
    /// The observer's condition failed on this event.
    Condition,
    /// A template failed on this event.
    Template,
    /// The address is not allowed to be dialled.
    Egress,
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// An answer that is not a success.
    Status,
    /// A redirect, which is never followed.
    Redirect,
    /// The answer was not what the protocol allows, or too large.
    Response,
    /// The observer or the action is no longer there.
    Removed,
    /// The process that made the last attempt was never heard of again.
    Lost,
    /// It took longer in all than its action allows.
    Deadline,
    /// None: somebody wants a past event delivered once more.
    Replay,
}

impl FailureKind {
    /// The name in metrics, dead letters and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Condition => "condition",
            Self::Template => "template",
            Self::Egress => "egress",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Response => "response",
            Self::Removed => "removed",
            Self::Lost => "lost",
            Self::Deadline => "deadline",
            Self::Replay => "replay",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::delivery_id;

    #[test]
    fn a_delivery_s_id_never_changes_and_is_its_own() {
        let id = delivery_id("a1b2-42", "default/big-orders", "notify");
        assert_eq!(id, "a1b2-42.f910b3a3ad0d74fe");
        assert_ne!(id, delivery_id("a1b2-42", "default/big-orders", "mail"));
        assert_ne!(id, delivery_id("a1b2-42", "shop/big-orders", "notify"));
        assert_ne!(id, delivery_id("a1b2-43", "default/big-orders", "notify"));
    }
}
