//! Validation of an `ObserverListener`: the rules that its schema cannot say.

use super::url::database_url;
use super::{api, egress, enrich, pod_template, queue, search, source};
use crate::config::{LeaseConfig, ListenerConfig, OwnDatabase, SourceConfig, StartAt};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::manifest::document::Metadata;
use crate::v1alpha1::{
    Autoscaling, LabelExpression, LabelOperator, LabelSelector, LeaseTiming, NamespacesFrom,
    ObserverListenerSpec,
};
use crate::validation::context::ValidationContext;

const SHORTEST: HumanDuration = HumanDuration::from_millis(1);
const LONGEST_POLL: HumanDuration = HumanDuration::from_secs(10);
const SHORTEST_RETENTION: HumanDuration = HumanDuration::from_secs(1);
const LONGEST_RETENTION: HumanDuration = HumanDuration::from_secs(720 * 3600);
const SHORTEST_LEASE: HumanDuration = HumanDuration::from_secs(1);
const LONGEST_LEASE: HumanDuration = HumanDuration::from_secs(600);
const SHORTEST_RETRY: HumanDuration = HumanDuration::from_millis(100);
const LONGEST_RETRY: HumanDuration = HumanDuration::from_secs(60);
const LONGEST_CHECKPOINT: HumanDuration = HumanDuration::from_secs(60);
const LONGEST_DRAIN: HumanDuration = HumanDuration::from_secs(600);
const SHORTEST_KEPT: HumanDuration = HumanDuration::from_secs(3600);
const LONGEST_KEPT: HumanDuration = HumanDuration::from_secs(87_600 * 3600);
const SHORTEST_TARGET_LAG: HumanDuration = HumanDuration::from_secs(1);
const LONGEST_TARGET_LAG: HumanDuration = HumanDuration::from_secs(3600);
const SHORTEST_STALL: HumanDuration = HumanDuration::from_secs(5);
const LONGEST_STALL: HumanDuration = HumanDuration::from_secs(3600);

/// Validates a listener and returns its configuration, with placeholders for what it reports.
pub(crate) fn check(
    spec: &ObserverListenerSpec,
    meta: &Metadata,
    context: &mut ValidationContext<'_>,
) -> ListenerConfig {
    let database = &spec.database;
    let at = "/spec/database";
    let namespaces = &spec.observer_namespaces;
    check_selector(
        "/spec/observerSelector",
        spec.observer_selector.as_ref(),
        context,
    );
    check_selector(
        "/spec/observerNamespaces/selector",
        namespaces.selector.as_ref(),
        context,
    );
    if (namespaces.from == NamespacesFrom::Selector) != namespaces.selector.is_some() {
        context.error(
            "/spec/observerNamespaces",
            "must have `selector` with `from: Selector`, and only then",
        );
    }
    check_identity(spec, meta, context);
    if spec.console.is_some() && spec.api.is_none() {
        context.error(
            "/spec/console",
            "needs spec.api, which says who may use it; on a laptop, leave both out and run with `--console`",
        );
    }
    if let Some(autoscaling) = spec.autoscaling {
        check_autoscaling(autoscaling, spec.shards, context);
    }
    if let Some(template) = &spec.pod_template {
        pod_template::check(template, context);
    }
    let log_database = database_url(&field(at, "url"), &database.url, context);
    let mut config = ListenerConfig {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        identity: spec.identity.clone(),
        lease: lease(spec.lease, context),
        shards: spec.shards,
        stalled_after: context.check_range(
            "/spec/stalledAfter",
            spec.stalled_after,
            SHORTEST_STALL,
            LONGEST_STALL,
        ),
        source: source::check(&spec.source, &log_database, context),
        database_url: log_database,
        start_at: spec.start_at,
        max_poll_interval: context.check_range(
            &field(at, "maxPollInterval"),
            database.max_poll_interval,
            SHORTEST,
            LONGEST_POLL,
        ),
        retention: context.check_range(
            &field(at, "retention"),
            database.retention,
            SHORTEST_RETENTION,
            LONGEST_RETENTION,
        ),
        checkpoint_interval: context.check_range(
            "/spec/checkpoint/interval",
            spec.checkpoint.interval,
            SHORTEST,
            LONGEST_CHECKPOINT,
        ),
        max_concurrency: spec.delivery.max_concurrency,
        drain_timeout: context.check_range(
            "/spec/delivery/drainTimeout",
            spec.delivery.drain_timeout,
            SHORTEST,
            LONGEST_DRAIN,
        ),
        dead_letter_retention: spec.dead_letters.retention.map(|retention| {
            let at = "/spec/deadLetters/retention";
            context.check_range(at, retention, SHORTEST_KEPT, LONGEST_KEPT)
        }),
        api: spec
            .api
            .as_ref()
            .map(|one| api::check(one, spec.console.as_ref(), context)),
        egress: egress::check(&spec.egress, context),
        queue: queue::check(spec, context),
        cache_ttl: enrich::ttl("/spec/cache", spec.cache.ttl, context),
        search: spec.search.as_ref().map(|one| search::check(one, context)),
    };
    if matches!(config.source, SourceConfig::Kafka(_)) && config.start_at == StartAt::Backfill {
        context.error(
            "/spec/startAt",
            "is `Backfill`, and topics have no tables to read; write `initialOffset: Earliest` in spec.source.kafka",
        );
    }
    config.egress.own_database = spec.egress.own_database.as_ref().map(|login| OwnDatabase {
        url: database_url("/spec/egress/ownDatabase/url", &login.url, context),
        listener_url: config.database_url.clone(),
        listener: config.identity(),
    });
    config
}

/// Checks that an identity is in the namespace of the listener: the right to write listeners in one
/// namespace gives none over those of another.
fn check_identity(
    spec: &ObserverListenerSpec,
    meta: &Metadata,
    context: &mut ValidationContext<'_>,
) {
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
        context.error("/spec/identity", message);
    }
}

fn check_autoscaling(autoscaling: Autoscaling, shards: u16, context: &mut ValidationContext<'_>) {
    let at = |name: &str| field("/spec/autoscaling", name);
    let (min, max) = (autoscaling.min_replicas, autoscaling.max_replicas);
    if min > max {
        context.error(&at("maxReplicas"), "must be at least `minReplicas`");
    } else if max > i32::from(shards) {
        let message = format!(
            "must be at most spec.shards, which is {shards}: a pod without a shard has nothing to do"
        );
        context.error(&at("maxReplicas"), message);
    }
    context.check_range(
        &at("targetLag"),
        autoscaling.target_lag,
        SHORTEST_TARGET_LAG,
        LONGEST_TARGET_LAG,
    );
}

fn lease(timing: LeaseTiming, context: &mut ValidationContext<'_>) -> LeaseConfig {
    let at = |name: &str| field("/spec/lease", name);
    let (duration, deadline, period) =
        (timing.duration, timing.renew_deadline, timing.retry_period);
    let config = LeaseConfig {
        duration: context.check_range(&at("duration"), duration, SHORTEST_LEASE, LONGEST_LEASE),
        renew_deadline: deadline.duration(),
        retry_period: context.check_range(
            &at("retryPeriod"),
            period,
            SHORTEST_RETRY,
            LONGEST_RETRY,
        ),
    };
    if duration <= deadline {
        context.error(&at("duration"), "must be longer than `renewDeadline`");
    }
    if config.renew_deadline * 5 <= config.retry_period * 6 {
        context.error(
            &at("renewDeadline"),
            "must be longer than 1.2 times `retryPeriod`",
        );
    }
    config
}

fn check_selector(at: &str, selector: Option<&LabelSelector>, context: &mut ValidationContext<'_>) {
    let expressions = selector.map_or(&[][..], |selector| &selector.match_expressions);
    for (index, expression) in expressions.iter().enumerate() {
        let at = format!("{at}/matchExpressions/{index}/values");
        check_expression(&at, expression, context);
    }
}

fn check_expression(at: &str, expression: &LabelExpression, context: &mut ValidationContext<'_>) {
    let (operator, empty) = (expression.operator, expression.values.is_empty());
    match operator {
        LabelOperator::In | LabelOperator::NotIn if empty => {
            context.error(at, format!("must name at least one value for {operator:?}"));
        }
        LabelOperator::Exists | LabelOperator::DoesNotExist if !empty => {
            context.error(at, format!("must be left out for {operator:?}"));
        }
        _ => {}
    }
}
