//! Jobs in the HTTP API.

use axum::response::Response;
use queue::{JobFilter, JobState, JobView};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::endpoint::{Call, affected, json, schema_of};
use super::problem::Problem;
use super::selection::{
    AffectedCount, FilterText, MAX_IDS, Selector, by_ids_or_all, check_ids, has_nul, invalid,
    one_of,
};

/// Page of jobs, the oldest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct JobPage {
    /// The jobs.
    items: Vec<JobView>,
    /// How many match in all.
    count: u64,
}

/// Jobs to change, by their ids.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobIds {
    /// The ids.
    #[schemars(length(min = 1, max = MAX_IDS))]
    ids: Vec<String>,
}

/// Jobs to change: all that match.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobSelection {
    /// A change of all must say so.
    #[schemars(extend("const" = true))]
    all: bool,
    /// Only jobs of this observer, `namespace/name`.
    observer: Option<FilterText>,
    /// Only jobs of this action.
    action: Option<FilterText>,
    /// Only jobs of this tenant.
    tenant: Option<FilterText>,
}

/// Adds the schema of a change's body.
pub(super) fn selector(generator: &mut SchemaGenerator) -> Schema {
    one_of(&[
        schema_of::<JobIds>(generator),
        schema_of::<JobSelection>(generator),
    ])
}

/// Returns the filter of a change; nothing where none can match.
fn body_filter(call: &Call) -> Result<Option<JobFilter>, Problem> {
    let what = "observer, action and tenant to narrow it down";
    let (ids, selection) = match by_ids_or_all::<JobIds, JobSelection>(call, what)? {
        Selector::Ids(JobIds { mut ids }) => {
            check_ids(&ids)?;
            ids.retain(|id| !has_nul(id));
            let selection = JobSelection {
                all: true,
                observer: None,
                action: None,
                tenant: None,
            };
            (Some(ids), selection)
        }
        Selector::All(selection) => (None, selection),
    };
    if !selection.all {
        return Err(invalid("all must be true"));
    }
    let text = FilterText::text;
    let tenant = call.tenant(text(selection.tenant));
    Ok(tenant.ok().map(|tenant| JobFilter {
        ids,
        observer: text(selection.observer),
        action: text(selection.action),
        state: None,
        tenant,
    }))
}

pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let query = &call.query;
    let Ok(tenant) = call.tenant(query.text("tenant")) else {
        let (items, count) = (Vec::new(), 0);
        return json(&JobPage { items, count });
    };
    let filter = JobFilter {
        ids: None,
        observer: query.text("observer"),
        action: query.text("action"),
        state: query.text("state").and_then(|name| {
            let mut all = JobState::ALL.into_iter();
            all.find(|state| state.as_str() == name)
        }),
        tenant,
    };
    let limit = usize::try_from(query.size("limit")).unwrap_or(usize::MAX);
    let (items, count) = call.context.queue.list(&filter, limit).await?;
    json(&JobPage { items, count })
}

pub(super) async fn show(call: Call) -> Result<Response, Problem> {
    let (id, tenant) = (&call.id, call.caller.tenant.as_deref());
    let found = call.context.queue.show_of_tenant(id, tenant).await?;
    json(&found.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no job {id}: it may be completed, or have become a dead letter"
        ))
    })?)
}

pub(super) async fn retry(call: Call) -> Result<Response, Problem> {
    let count = match body_filter(&call)? {
        Some(filter) => call.context.queue.retry(&filter).await?,
        None => 0,
    };
    affected(count, &AffectedCount { count })
}

pub(super) async fn cancel(call: Call) -> Result<Response, Problem> {
    let count = match body_filter(&call)? {
        Some(filter) => call.context.queue.cancel(&filter).await?,
        None => 0,
    };
    affected(count, &AffectedCount { count })
}
