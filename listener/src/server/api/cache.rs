//! The cache of lookups and actions in the HTTP API.

use axum::response::Response;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::endpoint::{Call, json, schema_of};
use super::problem::Problem;
use super::selection::{FilterText, invalid, one_of, parse};
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

/// All results are dropped.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AllResults {
    /// A change of all must say so.
    #[schemars(extend("const" = true))]
    all: bool,
}

/// Results of an observer are dropped.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResultsOfObserver {
    /// The observer, `namespace/name`.
    observer: FilterText,
    /// Only results of this lookup or action of the observer.
    name: Option<FilterText>,
}

/// Results are dropped that a change of an entity ends.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResultsOfEntity {
    /// The entity.
    entity: FilterText,
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
    one_of(&[
        schema_of::<AllResults>(generator),
        schema_of::<ResultsOfObserver>(generator),
        schema_of::<ResultsOfEntity>(generator),
    ])
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
    let invalidated = what(call.json()?)?;
    let context = &call.context;
    commands::invalidate(&context.pool, &context.listener, &invalidated).await?;
    json(&Invalidated { invalidated })
}

/// Parses a body.
fn what(body: Value) -> Result<Invalidation, Problem> {
    let given = ["all", "observer", "entity"].map(|name| body.get(name).is_some());
    match given {
        [true, false, false] => match parse(body)? {
            AllResults { all: true } => Ok(Invalidation::default()),
            AllResults { all: false } => Err(invalid("all must be true")),
        },
        [false, true, false] => {
            let ResultsOfObserver { observer, name } = parse(body)?;
            Ok(Invalidation {
                observer: FilterText::text(Some(observer)),
                name: FilterText::text(name),
                ..Invalidation::default()
            })
        }
        [false, false, true] => {
            let ResultsOfEntity { entity, key } = parse(body)?;
            Ok(Invalidation {
                entity: FilterText::text(Some(entity)),
                key: FilterText::text(key),
                ..Invalidation::default()
            })
        }
        _ => Err(invalid("give one of `all: true`, `observer` and `entity`")),
    }
}
