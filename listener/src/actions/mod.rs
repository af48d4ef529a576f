//! Actions: the side effects that an observer may have, one file for each kind.
//!
//! An action is compiled once from its configuration and then attempted for each delivery.
//! An attempt never retries by itself: it returns its outcome, and dispatch decides.

pub(crate) mod batcher;
pub(crate) mod deliver_action;
mod deliver_batch;
#[cfg(test)]
mod echo_tests;
mod email;
mod endpoint_url;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod format_tests;
pub(crate) mod http;
pub(crate) mod kafka;
mod log;
mod nats;
pub(crate) mod postgres;
mod redis;
pub mod signature;
mod slack;
pub(crate) mod span;
mod teams;
pub(crate) mod template_source;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{ActionConfig, ActionKind};
use tokio::time::Instant;

use self::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, deliver,
};
use self::span::ActionSpan;
use self::template_source::TemplateSource;
pub use crate::admission::action_runtime::{ActionRuntime, ActionRuntimeCache, ActionRuntimeError};
use crate::admission::control::AdmissionControl;
pub use crate::admission::endpoint_gate::{Capacity, EndpointRegistry, EndpointStatus};
use crate::admission::memory_budget;
pub use crate::admission::redis_limiter::RedisLimiter;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::egress::redaction::Secrets;
use crate::templating::compile_error::CompileError;
pub use crate::templating::template::TemplateError;
pub use deliver_action::Preview;
pub use postgres::{OwnDatabaseError, verify_own_database};

/// Returns the definition of an action's kind. Nothing else here differs by kind.
fn definition(kind: &ActionKind) -> &dyn ActionDefinition {
    match kind {
        ActionKind::Webhook(config) => config,
        ActionKind::Slack(config) => config,
        ActionKind::Teams(config) => config,
        ActionKind::Email(config) => config,
        ActionKind::Postgres(config) => config,
        ActionKind::Redis(config) => config,
        ActionKind::Nats(config) => config,
        ActionKind::Kafka(config) => config,
        ActionKind::Log(config) => config,
    }
}

/// Lists the templates of an action.
pub(crate) fn templates(kind: &ActionKind) -> Vec<TemplateSource<'_>> {
    definition(kind).templates()
}

/// Finds what compiles and can never work in an action, beside its templates: fields, and what is wrong
/// with them.
pub(crate) fn lint(config: &ActionConfig, runtime: &ActionRuntime) -> Vec<(String, String)> {
    let definition = definition(&config.kind);
    let denied = definition.compile(CompileContext::CHECK).ok();
    let denied = denied.and_then(|action| action.egress_denied(runtime));
    let denied = denied.map(|why| (definition.address_field().to_owned(), why));
    definition.lint().into_iter().chain(denied).collect()
}

/// One action of one observer, ready to be attempted.
pub struct Action {
    name: &'static str,
    compiled: Arc<dyn DeliverAction>,
    span: ActionSpan,
    max_batch_size: Option<usize>,
    admission: Arc<AdmissionControl>,
}

impl Action {
    /// Compiles an action; templates are parsed here, once. Needs no network.
    pub fn compile(config: &ActionConfig, runtime: &ActionRuntime) -> Result<Self, CompileError> {
        let definition = definition(&config.kind);
        let compiled = definition.compile(CompileContext {
            max_concurrency: config.max_concurrency.unwrap_or(runtime.max_concurrency),
            listener: &runtime.listener,
        })?;
        let mut secrets = Secrets::default();
        definition.secrets(&mut secrets);
        let admission = AdmissionControl::new(
            runtime,
            (
                compiled.endpoint(),
                config.rate_limit,
                config.retry.max_backoff,
            ),
            config.timeout,
            secrets,
        );
        Ok(Self {
            name: definition.name(),
            span: ActionSpan::of(definition.name(), &*compiled),
            max_batch_size: compiled.max_batch_size(),
            compiled,
            admission: Arc::new(admission),
        })
    }

    /// Finds what [`Action::compile`] would find, with nothing to deliver by.
    pub fn check(config: &ActionConfig) -> Result<(), CompileError> {
        let compiled = definition(&config.kind).compile(CompileContext::CHECK);
        compiled.map(drop)
    }

    /// Name of its kind, as in `spec.actions[]`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.name
    }

    /// Returns what the spans of its attempts say.
    pub(crate) const fn span(&self) -> &ActionSpan {
        &self.span
    }

    /// Deadline of one attempt.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.admission.timeout
    }

    /// Most deliveries that share one request; nothing where each has its own.
    #[must_use]
    pub fn max_batch_size(&self) -> Option<usize> {
        self.max_batch_size
    }

    /// How many requests would be admitted now; nothing where that is not bounded.
    #[must_use]
    pub fn capacity(&self, now: Instant) -> Option<Capacity> {
        self.admission.gate.capacity(now)
    }

    /// Closes the circuit breaker of its endpoint, which actions of the same endpoint share. Returns whether it
    /// was not closed.
    #[must_use]
    pub(crate) fn close_circuit(&self) -> bool {
        self.admission.gate.close(Instant::now())
    }

    /// Status of the endpoint; nothing where there is none.
    #[must_use]
    pub fn endpoint_status(&self) -> Option<EndpointStatus> {
        self.admission.gate.endpoint_status(Instant::now())
    }

    /// Returns what tells its endpoint from others, which may hold a secret; nothing where it has none.
    pub(crate) fn endpoint_key(&self) -> Option<&str> {
        self.compiled.endpoint().map(|(key, _)| key)
    }

    /// What would be sent for a delivery, in parts with a label each; secrets are left out.
    pub fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        self.compiled.preview(delivery, now)
    }

    /// Attempts a delivery, once, within [`Action::timeout`] from when it goes out, if that is
    /// admitted. `now` is what the endpoint is told as the time of the attempt.
    pub async fn attempt(&self, delivery: &Delivery, now: DateTime<Utc>) -> Outcome {
        let admission = &self.admission;
        let _memory = memory_budget::reserve(delivery).await;
        if self.max_batch_size.is_some() {
            let compiled = Arc::clone(&self.compiled);
            if let Some(joined) = compiled.join_batch(admission, delivery, now) {
                return joined.await;
            }
        }
        let request = AttemptRequest {
            runtime: &admission.runtime,
            delivery,
            now,
            timeout: admission.timeout,
        };
        admission
            .run(delivery, deliver(&*self.compiled, request))
            .await
    }
}

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Action({})", self.name)
    }
}
