//! Validation of actions: the rules that their schema cannot say, one file for each kind.

mod batch;
mod email;
mod format;
pub(super) mod kafka;
mod log;
mod nats;
pub(super) mod postgres;
mod redis;
mod slack;
mod teams;
pub(super) mod webhook;

use std::time::Duration;

use crate::config::{ActionConfig, ActionKind, ActionQueue, LogConfig, Mode, Retry};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{ACTION_KINDS, Action, RetryPolicy};
use crate::validation::context::ValidationContext;
use crate::validation::enrich::check_action_cache;
use crate::validation::rate_limit::rate_limit;

const SHORTEST: HumanDuration = HumanDuration::from_millis(1);
const LONGEST_TIMEOUT: HumanDuration = HumanDuration::from_secs(300);
const LONGEST_QUEUED_TIMEOUT: HumanDuration = HumanDuration::from_secs(3600);
const SHORTEST_DEADLINE: HumanDuration = HumanDuration::from_secs(1);
const LONGEST_DEADLINE: HumanDuration = HumanDuration::from_secs(8760 * 3600);
const LONGEST_BACKOFF: HumanDuration = HumanDuration::from_secs(24 * 3600);

/// Validates an action and returns its configuration, with placeholders for what it reports.
pub(crate) fn check(
    at: &str,
    action: &Action,
    context: &mut ValidationContext<'_>,
) -> ActionConfig {
    let kind = check_kind(at, action, context);
    let cache = action
        .cache
        .as_ref()
        .map(|cache| check_action_cache(&field(at, "cache"), cache, &kind, context));
    ActionConfig {
        name: action.name.clone(),
        when: action.when.clone(),
        kind,
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
        cache,
    }
}

/// Defines [`given_kinds`]: the kinds, each by its field, which is also its module here, and its
/// [`ActionKind`].
macro_rules! kinds {
    ($($field:ident => $kind:ident),+ $(,)?) => {
        /// Validates all kinds that an action sets.
        fn given_kinds(
            at: &str,
            action: &Action,
            context: &mut ValidationContext<'_>,
        ) -> Vec<(&'static str, ActionKind)> {
            let mut given = Vec::with_capacity(1);
            $(if let Some(spec) = &action.$field {
                let name = stringify!($field);
                let config = $field::check(&field(at, name), spec, context);
                given.push((name, ActionKind::$kind(config)));
            })+
            given
        }
    };
}

kinds! {
    webhook => Webhook,
    slack => Slack,
    teams => Teams,
    email => Email,
    postgres => Postgres,
    redis => Redis,
    nats => Nats,
    kafka => Kafka,
    log => Log,
}

/// Validates the kind of an action.
fn check_kind(at: &str, action: &Action, context: &mut ValidationContext<'_>) -> ActionKind {
    let given = given_kinds(at, action, context);
    if let [(first, _), (second, _), ..] = &*given {
        let message = format!("has both `{first}` and `{second}`; make two actions of it");
        context.error(at, message);
    }
    if given.is_empty() {
        context.missing_field(
            at,
            &ACTION_KINDS,
            "does nothing; give it something to do, such as `webhook` or `log`",
        );
    }
    let placeholder = || ActionKind::Log(LogConfig::default());
    let first = given.into_iter().next();
    first.map_or_else(placeholder, |(_, kind)| kind)
}

/// Checks a timeout. An attempt that takes long belongs into the job queue, where it blocks nothing
/// but its own lane.
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
