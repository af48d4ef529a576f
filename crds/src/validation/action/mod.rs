//! The rules for an action that its schema cannot say: one file for each kind.

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

use std::time::Duration;

use crate::config::{ActionConfig, ActionKind, ActionQueue, Mode, Retry};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Action, Log, RetryPolicy};
use crate::validation::context::ValidationContext;
use crate::validation::rate_limit::rate_limit;

/// The fields of an action of which exactly one is given.
const KINDS: [&str; 9] = [
    "webhook", "slack", "teams", "email", "postgres", "redis", "nats", "kafka", "log",
];

const SHORTEST: HumanDuration = HumanDuration::from_millis(1);
const LONGEST_TIMEOUT: HumanDuration = HumanDuration::from_secs(300);
const LONGEST_QUEUED_TIMEOUT: HumanDuration = HumanDuration::from_secs(3600);
const SHORTEST_DEADLINE: HumanDuration = HumanDuration::from_secs(1);
const LONGEST_DEADLINE: HumanDuration = HumanDuration::from_secs(8760 * 3600);
const LONGEST_BACKOFF: HumanDuration = HumanDuration::from_secs(24 * 3600);

/// Turns an action into what is performed, with placeholders for what it reports.
pub(crate) fn check(
    at: &str,
    action: &Action,
    context: &mut ValidationContext<'_>,
) -> ActionConfig {
    ActionConfig {
        name: action.name.clone(),
        kind: check_kind(at, action, context),
        retry: check_retry(&field(at, "retry"), action.retry, context),
        timeout: check_timeout(at, action, context),
        queue: ActionQueue {
            mode: action.mode,
            priority: action.priority,
            max_concurrency_total: action.max_concurrency_total,
        },
        ordering: action.ordering,
        rate_limit: rate_limit(&field(at, "rateLimit"), action.rate_limit, context),
        max_concurrency: action.max_concurrency,
    }
}

/// The one thing that it does.
fn check_kind(at: &str, action: &Action, context: &mut ValidationContext<'_>) -> ActionKind {
    let mut given = Vec::with_capacity(1);
    if let Some(spec) = &action.webhook {
        let config = webhook::check(&field(at, "webhook"), spec, context);
        given.push(("webhook", ActionKind::Webhook(config)));
    }
    if let Some(spec) = &action.slack {
        let config = slack::check(&field(at, "slack"), spec, context);
        given.push(("slack", ActionKind::Slack(config)));
    }
    if let Some(spec) = &action.teams {
        let config = teams::check(&field(at, "teams"), spec, context);
        given.push(("teams", ActionKind::Teams(config)));
    }
    if let Some(spec) = &action.email {
        let config = email::check(&field(at, "email"), spec, context);
        given.push(("email", ActionKind::Email(config)));
    }
    if let Some(spec) = &action.postgres {
        let config = postgres::check(&field(at, "postgres"), spec, context);
        given.push(("postgres", ActionKind::Postgres(config)));
    }
    if let Some(spec) = &action.redis {
        let config = redis::check(&field(at, "redis"), spec, context);
        given.push(("redis", ActionKind::Redis(config)));
    }
    if let Some(spec) = &action.nats {
        let config = nats::check(&field(at, "nats"), spec, context);
        given.push(("nats", ActionKind::Nats(config)));
    }
    if let Some(spec) = &action.kafka {
        let config = kafka::check(&field(at, "kafka"), spec, context);
        given.push(("kafka", ActionKind::Kafka(config)));
    }
    if let Some(spec) = &action.log {
        given.push(("log", ActionKind::Log(log::check(spec))));
    }
    if let [(first, _), (second, _), ..] = &*given {
        let message = format!("has both `{first}` and `{second}`; make two actions of it");
        context.error(at, message);
    }
    if given.is_empty() {
        context.missing_field(
            at,
            &KINDS,
            "does nothing; give it something to do, such as `webhook` or `log`",
        );
    }
    let placeholder = || ActionKind::Log(log::check(&Log::default()));
    let first = given.into_iter().next();
    first.map_or_else(placeholder, |(_, kind)| kind)
}

/// An attempt that takes long belongs into the queue, where it holds up nothing but its own lane.
fn check_timeout(at: &str, action: &Action, context: &mut ValidationContext<'_>) -> Duration {
    let (timeout, at_timeout) = (action.timeout, field(at, "timeout"));
    let longer = LONGEST_TIMEOUT < timeout && timeout <= LONGEST_QUEUED_TIMEOUT;
    match action.mode {
        Mode::Queued => {
            return context.check_range(&at_timeout, timeout, SHORTEST, LONGEST_QUEUED_TIMEOUT);
        }
        Mode::Inline if !longer => {
            return context.check_range(&at_timeout, timeout, SHORTEST, LONGEST_TIMEOUT);
        }
        Mode::Inline => {}
    }
    // A placeholder for `mode` does not tell what was meant.
    if !context.document.is_placeholder(&field(at, "mode")) {
        context.error(
            &at_timeout,
            format!(
                "must be {SHORTEST} to {LONGEST_TIMEOUT}; up to {LONGEST_QUEUED_TIMEOUT} with \
                 `mode: Queued`, which makes its attempts off the fast path"
            ),
        );
    }
    timeout.duration()
}

fn check_retry(at: &str, retry: RetryPolicy, context: &mut ValidationContext<'_>) -> Retry {
    let (initial, most) = (retry.initial_backoff, retry.max_backoff);
    let initial_at = field(at, "initialBackoff");
    let initial_backoff = context.check_range(&initial_at, initial, SHORTEST, LONGEST_BACKOFF);
    let max_backoff =
        context.check_range(&field(at, "maxBackoff"), most, SHORTEST, LONGEST_BACKOFF);
    let bounds = SHORTEST..=LONGEST_BACKOFF;
    if initial > most && bounds.contains(&initial) && bounds.contains(&most) {
        context.error(
            &initial_at,
            format!("is longer than `maxBackoff` ({most}); make it shorter, or raise that"),
        );
    }
    Retry {
        attempts: retry.attempts,
        initial_backoff,
        max_backoff,
        deadline: retry.deadline.map(|deadline| {
            context.check_range(
                &field(at, "deadline"),
                deadline,
                SHORTEST_DEADLINE,
                LONGEST_DEADLINE,
            )
        }),
    }
}
