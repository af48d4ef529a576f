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

use url::Url;

use super::checks::Checks;
use super::report::field;
use crate::config::{ActionConfig, ActionKind, ActionQueue, Mode, RateLimit, Redacted, Retry};
use crate::duration::Span;
use crate::resources::{self, Action, Log, RetryPolicy, ValueSource};

/// The fields of an action of which exactly one is given.
const KINDS: [&str; 9] = [
    "webhook", "slack", "teams", "email", "postgres", "redis", "nats", "kafka", "log",
];

const SHORTEST: Span = Span::from_millis(1);
const LONGEST_TIMEOUT: Span = Span::from_secs(300);
const LONGEST_QUEUED_TIMEOUT: Span = Span::from_secs(3600);
const SHORTEST_DEADLINE: Span = Span::from_secs(1);
const LONGEST_DEADLINE: Span = Span::from_secs(8760 * 3600);
const LONGEST_BACKOFF: Span = Span::from_secs(24 * 3600);

/// Turns an action into what is performed, with stand-ins for what it reports.
pub(super) fn check(at: &str, action: &Action, checks: &mut Checks<'_>) -> ActionConfig {
    ActionConfig {
        name: action.name.clone(),
        kind: check_kind(at, action, checks),
        retry: check_retry(&field(at, "retry"), action.retry, checks),
        timeout: check_timeout(at, action, checks),
        queue: ActionQueue {
            mode: action.mode,
            priority: action.priority,
            max_concurrency_total: action.max_concurrency_total,
        },
        ordering: action.ordering,
        rate_limit: rate_limit(&field(at, "rateLimit"), action.rate_limit, checks),
        max_concurrency: action.max_concurrency,
    }
}

/// A limit, with a stand-in for what it reports.
pub(super) fn rate_limit(
    at: &str,
    limit: Option<resources::RateLimit>,
    checks: &mut Checks<'_>,
) -> Option<RateLimit> {
    let limit = limit?;
    Some(RateLimit {
        attempts: limit.attempts,
        per: checks.bounded(&field(at, "per"), limit.per, SHORTEST, LONGEST_BACKOFF),
    })
}

/// The one thing that it does.
fn check_kind(at: &str, action: &Action, checks: &mut Checks<'_>) -> ActionKind {
    let mut given = Vec::with_capacity(1);
    if let Some(spec) = &action.webhook {
        let config = webhook::check(&field(at, "webhook"), spec, checks);
        given.push(("webhook", ActionKind::Webhook(config)));
    }
    if let Some(spec) = &action.slack {
        let config = slack::check(&field(at, "slack"), spec, checks);
        given.push(("slack", ActionKind::Slack(config)));
    }
    if let Some(spec) = &action.teams {
        let config = teams::check(&field(at, "teams"), spec, checks);
        given.push(("teams", ActionKind::Teams(config)));
    }
    if let Some(spec) = &action.email {
        let config = email::check(&field(at, "email"), spec, checks);
        given.push(("email", ActionKind::Email(config)));
    }
    if let Some(spec) = &action.postgres {
        let config = postgres::check(&field(at, "postgres"), spec, checks);
        given.push(("postgres", ActionKind::Postgres(config)));
    }
    if let Some(spec) = &action.redis {
        let config = redis::check(&field(at, "redis"), spec, checks);
        given.push(("redis", ActionKind::Redis(config)));
    }
    if let Some(spec) = &action.nats {
        let config = nats::check(&field(at, "nats"), spec, checks);
        given.push(("nats", ActionKind::Nats(config)));
    }
    if let Some(spec) = &action.kafka {
        let config = kafka::check(&field(at, "kafka"), spec, checks);
        given.push(("kafka", ActionKind::Kafka(config)));
    }
    if let Some(spec) = &action.log {
        given.push(("log", ActionKind::Log(log::check(spec))));
    }
    if let [(first, _), (second, _), ..] = &*given {
        let message = format!("has both `{first}` and `{second}`; make two actions of it");
        checks.wrong(at, message);
    }
    if given.is_empty() {
        checks.lacks(
            at,
            &KINDS,
            "does nothing; give it something to do, such as `webhook` or `log`",
        );
    }
    let stand_in = || ActionKind::Log(log::check(&Log::default()));
    let first = given.into_iter().next();
    first.map_or_else(stand_in, |(_, kind)| kind)
}

/// A URL of one of `schemes` with a host, used as it is; `wrong` says what else it has to be.
pub(super) fn url(
    at: &str,
    source: &ValueSource,
    (schemes, wrong): (&[&str], &str),
    checks: &mut Checks<'_>,
) -> Redacted {
    let Some((at, url)) = checks.resolve(at, source) else {
        return Redacted::default();
    };
    let proper = Url::parse(url.reveal()).is_ok_and(|url| {
        schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty())
    });
    if url.reveal().contains("{{") {
        checks.wrong(
            &at,
            "holds a template, but a URL is used as it is; templates are for what is sent",
        );
    } else if !proper {
        checks.wrong(&at, wrong);
    }
    url
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
        deadline: retry.deadline.map(|deadline| {
            checks.bounded(
                &field(at, "deadline"),
                deadline,
                SHORTEST_DEADLINE,
                LONGEST_DEADLINE,
            )
        }),
    }
}
