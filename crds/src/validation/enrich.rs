//! Validation of lookups: the rules that their schema cannot say.

use std::collections::BTreeSet;
use std::time::Duration;

use super::action::{postgres, webhook};
use super::context::ValidationContext;
use super::tls;
use super::url::url;
use crate::config::{
    ActionKind, CacheConfig, HttpLookupConfig, InvalidateOnConfig, LookupConfig, LookupKind,
    OnLookupError, PostgresConfig, Redacted, RedisCommand, RequestMethod, ServerUrl,
};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{ActionCache, HttpLookup, InvalidateOn, LOOKUP_KINDS, Lookup, LookupCache};
use crate::validation::names::{IDENTIFIER_RULE, is_identifier};

const SHORTEST_TIMEOUT: HumanDuration = HumanDuration::from_millis(1);
const LONGEST_TIMEOUT: HumanDuration = HumanDuration::from_secs(60);
const SHORTEST_TTL: HumanDuration = HumanDuration::from_secs(1);
const LONGEST_TTL: HumanDuration = HumanDuration::from_secs(24 * 3600);

/// Validates the lookups of an observer and returns their configuration, with placeholders for what
/// it reports. Lookups keep their places.
pub(super) fn check(lookups: &[Lookup], context: &mut ValidationContext<'_>) -> Vec<LookupConfig> {
    let mut names = BTreeSet::new();
    let mut checked = Vec::with_capacity(lookups.len());
    for (index, lookup) in lookups.iter().enumerate() {
        let at = format!("/spec/enrich/{index}");
        if !is_identifier(&lookup.name) {
            context.error(&field(&at, "name"), IDENTIFIER_RULE);
        } else if !names.insert(&lookup.name) {
            let message = format!(
                "a lookup named `{}` is there already; names are unique within an observer",
                lookup.name
            );
            context.error(&field(&at, "name"), message);
        }
        checked.push(check_one(&at, lookup, context));
    }
    checked
}

fn check_one(at: &str, lookup: &Lookup, context: &mut ValidationContext<'_>) -> LookupConfig {
    let timeout = field(at, "timeout");
    let cache = lookup
        .cache
        .as_ref()
        .map(|cache| check_cache(&field(at, "cache"), cache, context));
    let uses_stale = lookup.on_error == OnLookupError::Stale;
    if uses_stale && cache.is_none() {
        context.error(
            &field(at, "onError"),
            "`Stale` uses results of the cache; give the lookup a `cache` (`cache: {}` takes its defaults)",
        );
    }
    LookupConfig {
        name: lookup.name.clone(),
        kind: check_kind(at, lookup, context),
        timeout: context.check_range(&timeout, lookup.timeout, SHORTEST_TIMEOUT, LONGEST_TIMEOUT),
        on_error: lookup.on_error,
        cache: cache.map(|cache| CacheConfig {
            stale_if_error: if uses_stale {
                LONGEST_TTL.duration()
            } else {
                cache.stale_if_error
            },
            ..cache
        }),
    }
}

fn check_cache(at: &str, cache: &LookupCache, context: &mut ValidationContext<'_>) -> CacheConfig {
    let zero = HumanDuration::from_secs(0);
    let mut time =
        |name: &str, time| context.check_range(&field(at, name), time, zero, LONGEST_TTL);
    CacheConfig {
        negative_ttl: time("negativeTtl", cache.negative_ttl),
        stale_if_error: time("staleIfError", cache.stale_if_error),
        ttl: cache.ttl.map(|own| ttl(at, own, context)),
        invalidate_on: invalidate_on(at, &cache.invalidate_on, context),
    }
}

/// Validates the cache of an action. Requests are compared, so what each delivery has of its own cannot be
/// part of them.
pub(super) fn check_action_cache(
    at: &str,
    cache: &ActionCache,
    kind: &ActionKind,
    context: &mut ValidationContext<'_>,
) -> CacheConfig {
    if let Some(field) = own_of_event(kind) {
        context.error(
            at,
            format!("never finds two equal requests, as each holds its whole event: give `{field}` a template"),
        );
    } else if matches!(
        kind,
        ActionKind::Kafka(_) | ActionKind::Nats(_) | ActionKind::Log(_)
    ) {
        context.error(
            at,
            "is not for a kind of action that keeps a record of each event: leave `cache` out",
        );
    }
    CacheConfig {
        ttl: cache.ttl.map(|own| ttl(at, own, context)),
        negative_ttl: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        invalidate_on: invalidate_on(at, &cache.invalidate_on, context),
    }
}

/// Returns the field that an action lacks, without which it sends the event itself.
fn own_of_event(kind: &ActionKind) -> Option<&'static str> {
    match kind {
        ActionKind::Webhook(webhook) => webhook.body.is_none().then_some("webhook.body"),
        ActionKind::Redis(redis) => match &redis.command {
            RedisCommand::Set { value: None, .. } => Some("redis.set.value"),
            RedisCommand::Publish { message: None, .. } => Some("redis.publish.message"),
            RedisCommand::AppendToStream { message: None, .. } => {
                Some("redis.appendToStream.message")
            }
            _ => None,
        },
        _ => None,
    }
}

/// Validates how long results are used.
pub(super) fn ttl(at: &str, ttl: HumanDuration, context: &mut ValidationContext<'_>) -> Duration {
    context.check_range(&field(at, "ttl"), ttl, SHORTEST_TTL, LONGEST_TTL)
}

fn invalidate_on(
    at: &str,
    changes: &[InvalidateOn],
    context: &mut ValidationContext<'_>,
) -> Vec<InvalidateOnConfig> {
    let mut checked = Vec::with_capacity(changes.len());
    for (n, change) in changes.iter().enumerate() {
        let at = format!("{at}/invalidateOn/{n}");
        if change.entity.trim() != change.entity {
            context.error(
                &field(&at, "entity"),
                "begins or ends with a space, and no entity does",
            );
        }
        checked.push(InvalidateOnConfig {
            entity: change.entity.clone(),
            key: change.key.clone(),
        });
    }
    checked
}

fn check_kind(at: &str, lookup: &Lookup, context: &mut ValidationContext<'_>) -> LookupKind {
    let postgres = lookup
        .postgres
        .as_ref()
        .map(|spec| LookupKind::Postgres(postgres::check(&field(at, "postgres"), spec, context)));
    let http = lookup
        .http
        .as_ref()
        .map(|spec| LookupKind::Http(check_http(&field(at, "http"), spec, context)));
    if postgres.is_some() && http.is_some() {
        context.error(at, "has both `postgres` and `http`; make two lookups of it");
    }
    if let Some(kind) = postgres.or(http) {
        return kind;
    }
    let remedy = "looks nothing up; give it `postgres` or `http`";
    context.missing_field(at, &LOOKUP_KINDS, remedy);
    LookupKind::Postgres(PostgresConfig {
        url: None,
        tls: None,
        statement: "select null".to_owned(),
        parameters: Vec::new(),
    })
}

fn check_http(
    at: &str,
    http: &HttpLookup,
    context: &mut ValidationContext<'_>,
) -> HttpLookupConfig {
    let target = url(&field(at, "url"), &http.url, ServerUrl::HTTP, context);
    check_path(at, http, &target, context);
    if http.body.is_some() && http.method == RequestMethod::Get {
        context.error(
            &field(at, "body"),
            "is for `method: POST`; a GET request has no body",
        );
    }
    HttpLookupConfig {
        url: target,
        path: http.path.clone(),
        method: http.method,
        headers: webhook::headers(&field(at, "headers"), &http.headers, context),
        body: http.body.clone(),
        content_type: webhook::content_type(&field(at, "contentType"), &http.content_type, context),
        tls: http
            .tls
            .as_ref()
            .map(|tls| tls::check(&field(at, "tls"), tls, context)),
    }
}

/// What follows a query or a fragment would be part of it.
fn check_path(at: &str, http: &HttpLookup, target: &Redacted, context: &mut ValidationContext<'_>) {
    let Some(path) = &http.path else { return };
    let at = field(at, "path");
    if !path.starts_with(['/', '?']) {
        context.error(&at, "must begin with `/`, or with `?` for a query alone");
    } else if target.reveal().contains(['?', '#']) {
        context.error(
            &at,
            "cannot follow a URL that has a query; move the query of `url` to the end of `path`",
        );
    } else if path.contains('#') && !path.contains("{#") {
        context.error(
            &at,
            "has a fragment, which no server receives; leave `#` out",
        );
    }
}
