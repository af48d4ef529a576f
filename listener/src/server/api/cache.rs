//! The cache of lookups and actions in the HTTP API.

use axum::response::Response;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::endpoint::{Call, json, schema_of};
use super::problem::Problem;
use super::selection::{FilterText, invalid};
use crate::cache::CacheStats;
use crate::cache::commands::{self, Invalidation};
use crate::coordination::heartbeat;

/// Caches of the processes.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct CacheList {
    /// The processes that have one.
    items: Vec<ProcessCache>,
}

/// Cache of a process.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ProcessCache {
    /// The process.
    process: String,
    /// What its cache holds and has served.
    stats: CacheStats,
}

/// Results to drop: all, those of an observer, or those that a change of an entity ends.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InvalidationBody {
    /// All results.
    #[serde(default)]
    all: bool,
    /// Results of this observer, `namespace/name`.
    observer: Option<FilterText>,
    /// Only results of this lookup or action of the observer.
    name: Option<FilterText>,
    /// Results that a change of this entity ends.
    entity: Option<FilterText>,
    /// Only results that depend on its row with this key.
    key: Option<FilterText>,
}

/// What was dropped. Processes learn of it within about a second.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Invalidated {
    /// What was dropped; all where nothing is given.
    invalidated: Invalidation,
}

/// Adds the schema of the body.
pub(super) fn body(generator: &mut SchemaGenerator) -> Schema {
    schema_of::<InvalidationBody>(generator)
}

pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let context = &call.context;
    let members = heartbeat::members(&context.pool, &context.listener).await?;
    let items = members.into_iter().filter_map(|member| {
        Some(ProcessCache {
            process: member.name,
            stats: member.cache?,
        })
    });
    let items = items.collect();
    json(&CacheList { items })
}

pub(super) async fn invalidate(call: Call) -> Result<Response, Problem> {
    let body: InvalidationBody = call.json()?;
    let given = [body.all, body.observer.is_some(), body.entity.is_some()];
    if given.into_iter().filter(|given| *given).count() != 1 {
        return Err(invalid("give one of `all: true`, `observer` and `entity`"));
    }
    if body.name.is_some() && body.observer.is_none() {
        return Err(invalid("`name` needs `observer`"));
    }
    if body.key.is_some() && body.entity.is_none() {
        return Err(invalid("`key` needs `entity`"));
    }
    let text = |text: Option<FilterText>| text.map(|FilterText(text)| text);
    let invalidated = Invalidation {
        observer: text(body.observer),
        name: text(body.name),
        entity: text(body.entity),
        key: text(body.key),
    };
    let context = &call.context;
    commands::invalidate(&context.pool, &context.listener, &invalidated).await?;
    json(&Invalidated { invalidated })
}
