//! The rules for an `Observer` that its schema cannot say.

use std::collections::BTreeSet;
use std::time::Duration;

use super::checks::{Checks, LABEL_RULE, Meta, is_label};
use super::report::field;
use super::webhook;
use crate::config::{
    ActionConfig, ActionKind, ActionQueue, LogConfig, LogLevel, Mode, ObserverConfig, Operation,
    Retry,
};
use crate::duration::Span;
use crate::resources::{Action, ObserverSpec, On, RetryPolicy};

const SHORTEST: Span = Span::from_millis(1);
const LONGEST_TIMEOUT: Span = Span::from_secs(300);
const LONGEST_QUEUED_TIMEOUT: Span = Span::from_secs(3600);
const LONGEST_BACKOFF: Span = Span::from_secs(24 * 3600);

/// Turns a resource into what a listener runs, with stand-ins for what it reports. Actions keep
/// their places.
pub(super) fn check(spec: &ObserverSpec, meta: &Meta, checks: &mut Checks<'_>) -> ObserverConfig {
    check_on(&spec.on, checks);
    let mut names = BTreeSet::new();
    let mut actions = Vec::with_capacity(spec.actions.len());
    for (index, action) in spec.actions.iter().enumerate() {
        let at = format!("/spec/actions/{index}");
        if !is_label(&action.name) {
            checks.wrong(&field(&at, "name"), LABEL_RULE);
        } else if !names.insert(&action.name) {
            checks.wrong(
                &field(&at, "name"),
                format!(
                    "an action named `{}` is there already; names are unique within an observer",
                    action.name
                ),
            );
        }
        actions.push(check_action(&at, action, checks));
    }
    ObserverConfig {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        entity: spec.on.entity.clone(),
        operations: spec.on.operations.clone(),
        tenant: spec.tenant.clone(),
        when: spec.when.clone(),
        actions,
    }
}

fn check_on(on: &On, checks: &mut Checks<'_>) {
    let entity = &on.entity;
    if entity.trim() != entity || entity.chars().any(char::is_control) {
        checks.wrong(
            "/spec/on/entity",
            "has white space around it or control characters in it; write schema.table",
        );
    } else if !entity.contains('.') && !on.operations.contains(&Operation::Custom) {
        checks.wrong(
            "/spec/on/entity",
            "names no schema, so no table matches; write schema.table such as `public.orders`, or \
             add `Custom` to `operations` for events of `observer.emit`",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, operation) in on.operations.iter().enumerate() {
        if !seen.insert(operation) {
            checks.wrong(
                &format!("/spec/on/operations/{index}"),
                format!("`{}` is listed already", operation.as_str()),
            );
        }
    }
}

fn check_action(at: &str, action: &Action, checks: &mut Checks<'_>) -> ActionConfig {
    let kind = match (&action.webhook, &action.log) {
        (Some(webhook), None) => {
            ActionKind::Webhook(webhook::check(&field(at, "webhook"), webhook, checks))
        }
        (None, Some(log)) => ActionKind::Log(LogConfig {
            message: log.message.clone(),
            level: log.level,
        }),
        (Some(webhook), Some(_)) => {
            checks.wrong(at, "has both `webhook` and `log`; make two actions of it");
            ActionKind::Webhook(webhook::check(&field(at, "webhook"), webhook, checks))
        }
        (None, None) => {
            checks.lacks(
                at,
                ["webhook", "log"],
                "does nothing; give it a `webhook` or a `log`",
            );
            ActionKind::Log(LogConfig {
                message: None,
                level: LogLevel::default(),
            })
        }
    };
    ActionConfig {
        name: action.name.clone(),
        kind,
        retry: check_retry(&field(at, "retry"), action.retry, checks),
        timeout: check_timeout(at, action, checks),
        queue: ActionQueue {
            mode: action.mode,
            priority: action.priority,
            max_running: action.max_running,
        },
    }
}

/// An attempt that takes long belongs into the queue, where it holds up nothing but its own lane.
fn check_timeout(at: &str, action: &Action, checks: &mut Checks<'_>) -> Duration {
    let (timeout, at_timeout) = (action.timeout, field(at, "timeout"));
    let longer = LONGEST_TIMEOUT < timeout && timeout <= LONGEST_QUEUED_TIMEOUT;
    match action.mode {
        Mode::Queued => {
            return checks.bounded(&at_timeout, timeout, SHORTEST, LONGEST_QUEUED_TIMEOUT);
        }
        Mode::Inline if !longer => {
            return checks.bounded(&at_timeout, timeout, SHORTEST, LONGEST_TIMEOUT);
        }
        Mode::Inline => {}
    }
    // A stand-in for `mode` does not tell what was meant.
    if !checks.document.is_mended(&field(at, "mode")) {
        checks.wrong(
            &at_timeout,
            format!(
                "must be {SHORTEST} to {LONGEST_TIMEOUT}; up to {LONGEST_QUEUED_TIMEOUT} with \
                 `mode: Queued`, which makes its attempts off the fast path"
            ),
        );
    }
    timeout.duration()
}

fn check_retry(at: &str, retry: RetryPolicy, checks: &mut Checks<'_>) -> Retry {
    let (initial, most) = (retry.initial_backoff, retry.max_backoff);
    let initial_at = field(at, "initialBackoff");
    let initial_backoff = checks.bounded(&initial_at, initial, SHORTEST, LONGEST_BACKOFF);
    let max_backoff = checks.bounded(&field(at, "maxBackoff"), most, SHORTEST, LONGEST_BACKOFF);
    let bounds = SHORTEST..=LONGEST_BACKOFF;
    if initial > most && bounds.contains(&initial) && bounds.contains(&most) {
        checks.wrong(
            &initial_at,
            format!("is longer than `maxBackoff` ({most}); make it shorter, or raise that"),
        );
    }
    Retry {
        attempts: retry.attempts,
        initial_backoff,
        max_backoff,
    }
}
