//! The rules for an `ObserverListener` that its schema cannot say.

use super::checks::{Checks, Meta};
use super::report::field;
use super::{egress, pod_template, queue};
use crate::config::{LeaseConfig, ListenerConfig, OwnDatabase, Redacted};
use crate::duration::Span;
use crate::resources::{
    LabelExpression, LabelOperator, LabelSelector, LeaseTiming, NamespacesFrom,
    ObserverListenerSpec, Source, ValueSource,
};

const SHORTEST: Span = Span::from_millis(1);
const LONGEST_POLL: Span = Span::from_secs(10);
const SHORTEST_RETENTION: Span = Span::from_secs(1);
const LONGEST_RETENTION: Span = Span::from_secs(720 * 3600);
const SHORTEST_LEASE: Span = Span::from_secs(1);
const LONGEST_LEASE: Span = Span::from_secs(600);
const SHORTEST_RETRY: Span = Span::from_millis(100);
const LONGEST_RETRY: Span = Span::from_secs(60);
const LONGEST_CHECKPOINT: Span = Span::from_secs(60);
const LONGEST_DRAIN: Span = Span::from_secs(600);
const SHORTEST_KEPT: Span = Span::from_secs(3600);
const LONGEST_KEPT: Span = Span::from_secs(87_600 * 3600);
const SHORTEST_TOKEN: usize = 16;
const SHORTEST_STALL: Span = Span::from_secs(5);
const LONGEST_STALL: Span = Span::from_secs(3600);

/// Turns a resource into what a listener runs from, with stand-ins for what it reports.
pub(super) fn check(
    spec: &ObserverListenerSpec,
    meta: &Meta,
    checks: &mut Checks<'_>,
) -> ListenerConfig {
    let database = &spec.database;
    let at = "/spec/database";
    let namespaces = &spec.observer_namespaces;
    check_selector(
        "/spec/observerSelector",
        spec.observer_selector.as_ref(),
        checks,
    );
    check_selector(
        "/spec/observerNamespaces/selector",
        namespaces.selector.as_ref(),
        checks,
    );
    if (namespaces.from == NamespacesFrom::Selector) != namespaces.selector.is_some() {
        checks.wrong(
            "/spec/observerNamespaces",
            "must have `selector` with `from: Selector`, and only then",
        );
    }
    check_identity(spec, meta, checks);
    check_source(&spec.source, checks);
    if let Some(template) = &spec.pod_template {
        pod_template::check(template, checks);
    }
    let database_url = database_url(&field(at, "url"), &database.url, checks);
    let mut config = ListenerConfig {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        identity: spec.identity.clone(),
        lease: lease(spec.lease, checks),
        shards: spec.shards,
        stalled_after: checks.bounded(
            "/spec/stalledAfter",
            spec.stalled_after,
            SHORTEST_STALL,
            LONGEST_STALL,
        ),
        database_url,
        start_at: spec.start_at,
        max_poll_interval: checks.bounded(
            &field(at, "maxPollInterval"),
            database.max_poll_interval,
            SHORTEST,
            LONGEST_POLL,
        ),
        retention: checks.bounded(
            &field(at, "retention"),
            database.retention,
            SHORTEST_RETENTION,
            LONGEST_RETENTION,
        ),
        checkpoint_interval: checks.bounded(
            "/spec/checkpoint/interval",
            spec.checkpoint.interval,
            SHORTEST,
            LONGEST_CHECKPOINT,
        ),
        max_concurrency: spec.delivery.max_concurrency,
        drain_timeout: checks.bounded(
            "/spec/delivery/drainTimeout",
            spec.delivery.drain_timeout,
            SHORTEST,
            LONGEST_DRAIN,
        ),
        dead_letter_retention: spec.dead_letters.retention.map(|retention| {
            let at = "/spec/deadLetters/retention";
            checks.bounded(at, retention, SHORTEST_KEPT, LONGEST_KEPT)
        }),
        api_token: spec.api.as_ref().map(|api| api_token(&api.token, checks)),
        egress: egress::check(&spec.egress, checks),
        queue: queue::check(spec, checks),
    };
    config.egress.own_database = spec.egress.own_database.as_ref().map(|login| OwnDatabase {
        url: self::database_url("/spec/egress/ownDatabase/url", &login.url, checks),
        listener_url: config.database_url.clone(),
        listener: config.identity(),
    });
    config
}

/// Exactly one source: there is but one kind, so only none is wrong.
fn check_source(source: &Source, checks: &mut Checks<'_>) {
    if source.triggers.is_none() {
        checks.lacks(
            "/spec/source",
            &["triggers"],
            "names no source; write `triggers: {}`, or leave `source` out",
        );
    }
}

/// The right to write listeners in one namespace gives none over listeners in another.
fn check_identity(spec: &ObserverListenerSpec, meta: &Meta, checks: &mut Checks<'_>) {
    let namespace = &meta.namespace;
    let is_own = |identity: &String| {
        let rest = identity.strip_prefix(&**namespace);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    if !spec.identity.as_ref().is_none_or(is_own) {
        let message = format!(
            "must begin with the listener's namespace, as `{namespace}/{}` does",
            meta.name
        );
        checks.wrong("/spec/identity", message);
    }
}

fn lease(timing: LeaseTiming, checks: &mut Checks<'_>) -> LeaseConfig {
    let at = |name: &str| field("/spec/lease", name);
    let (duration, deadline, period) =
        (timing.duration, timing.renew_deadline, timing.retry_period);
    let config = LeaseConfig {
        duration: checks.bounded(&at("duration"), duration, SHORTEST_LEASE, LONGEST_LEASE),
        renew_deadline: deadline.duration(),
        retry_period: checks.bounded(&at("retryPeriod"), period, SHORTEST_RETRY, LONGEST_RETRY),
    };
    if duration <= deadline {
        checks.wrong(&at("duration"), "must be longer than `renewDeadline`");
    }
    if config.renew_deadline * 5 <= config.retry_period * 6 {
        checks.wrong(
            &at("renewDeadline"),
            "must be longer than 1.2 times `retryPeriod`",
        );
    }
    config
}

fn api_token(source: &ValueSource, checks: &mut Checks<'_>) -> Redacted {
    let Some((at, token)) = checks.resolve("/spec/api/token", source) else {
        return Redacted::default();
    };
    // Secrets read from files often end in a line break.
    let token = token.reveal().trim();
    let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.len() < SHORTEST_TOKEN || !printable {
        checks.wrong(
            &at,
            format!(
                "must be at least {SHORTEST_TOKEN} letters, digits or signs without spaces; make one with \
                 `openssl rand -hex 32`"
            ),
        );
    }
    Redacted::new(token)
}

pub(super) fn database_url(at: &str, source: &ValueSource, checks: &mut Checks<'_>) -> Redacted {
    let Some((at, url)) = checks.resolve(at, source) else {
        return Redacted::default();
    };
    let text = url.reveal();
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        checks.wrong(
            &at,
            "is not the URL of a Postgres database; write postgres://user:password@host:5432/database",
        );
    }
    url
}

fn check_selector(at: &str, selector: Option<&LabelSelector>, checks: &mut Checks<'_>) {
    let expressions = selector.map_or(&[][..], |selector| &selector.match_expressions);
    for (index, expression) in expressions.iter().enumerate() {
        let at = format!("{at}/matchExpressions/{index}/values");
        check_expression(&at, expression, checks);
    }
}

fn check_expression(at: &str, expression: &LabelExpression, checks: &mut Checks<'_>) {
    let (operator, empty) = (expression.operator, expression.values.is_empty());
    match operator {
        LabelOperator::In | LabelOperator::NotIn if empty => {
            checks.wrong(at, format!("must name at least one value for {operator:?}"));
        }
        LabelOperator::Exists | LabelOperator::DoesNotExist if !empty => {
            checks.wrong(at, format!("must be left out for {operator:?}"));
        }
        _ => {}
    }
}
