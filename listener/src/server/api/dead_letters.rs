//! Dead letters in the HTTP API.

use std::io;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures::stream;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::endpoint::{Call, NothingMatches, affected, json, schema_of};
use super::problem::Problem;
use super::selection::{
    AffectedCount, FilterText, MAX_IDS, RowId, Selector, by_ids_or_all, check_ids, invalid, one_of,
};
use crate::dead_letters::admin::{self, DeadLetterFilter, DeadLetterRow};

/// Dead letters in memory during an export.
const EXPORT_PAGE: i64 = 100;

/// Content of an export.
pub(super) const LINES: &str = "application/x-ndjson";

/// Page of dead letters, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct DeadLetterPage {
    /// The dead letters.
    items: Vec<DeadLetterRow>,
    /// `before` of the next page, if there is one.
    next: Option<i64>,
    /// How many match in all, on this page and others, if `count` asks for it.
    count: Option<i64>,
}

/// Dead letters to change, by their ids.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeadLetterIds {
    /// The ids.
    #[schemars(length(min = 1, max = MAX_IDS))]
    ids: Vec<RowId>,
}

/// Dead letters to change: all that match a filter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeadLetterSelection {
    /// A change of all must say so.
    #[schemars(extend("const" = true))]
    all: bool,
    /// What they have in common.
    filter: Option<SelectionFilter>,
}

/// What dead letters have in common.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SelectionFilter {
    /// The observer, `namespace/name`.
    observer: Option<FilterText>,
    /// The action.
    action: Option<FilterText>,
    /// Kind of the last failure.
    kind: Option<FilterText>,
    /// Entity of the event.
    entity: Option<FilterText>,
    /// Key of the event.
    key: Option<FilterText>,
    /// Tenant of the event.
    tenant: Option<FilterText>,
    /// Given up at this time or later.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    since: Option<DateTime<Utc>>,
    /// Given up before this time.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    until: Option<DateTime<Utc>>,
}

/// Adds the schema of a change's body.
pub(super) fn selector(generator: &mut SchemaGenerator) -> Schema {
    one_of(&[
        schema_of::<DeadLetterIds>(generator),
        schema_of::<DeadLetterSelection>(generator),
    ])
}

/// Returns the filter of a list or an export; nothing where none can match.
fn query_filter(call: &Call) -> Option<DeadLetterFilter> {
    let query = &call.query;
    let tenant = call.tenant(query.text("tenant")).ok()?;
    Some(DeadLetterFilter {
        ids: None,
        listener: Some(call.context.listener.to_string()),
        observer: query.text("observer"),
        action: query.text("action"),
        kind: query.text("kind"),
        entity: query.text("entity"),
        key: query.text("key"),
        tenant,
        since: query.time("since"),
        until: query.time("until"),
    })
}

/// Returns the filter of a change; nothing where none can match.
fn body_filter(call: &Call) -> Result<Option<DeadLetterFilter>, Problem> {
    let what = "a `filter` of observer, action, kind, entity, key, tenant, since and until";
    let (ids, filter) = match by_ids_or_all::<DeadLetterIds, DeadLetterSelection>(call, what)? {
        Selector::Ids(DeadLetterIds { ids }) => {
            check_ids(&ids)?;
            let ids = ids.into_iter().map(|RowId(id)| id);
            (Some(ids.collect()), SelectionFilter::default())
        }
        Selector::All(DeadLetterSelection { all: true, filter }) => {
            (None, filter.unwrap_or_default())
        }
        Selector::All(_) => return Err(invalid("all must be true")),
    };
    let text = FilterText::text;
    let Ok(tenant) = call.tenant(text(filter.tenant)) else {
        return Ok(None);
    };
    Ok(Some(DeadLetterFilter {
        ids,
        listener: Some(call.context.listener.to_string()),
        observer: text(filter.observer),
        action: text(filter.action),
        kind: text(filter.kind),
        entity: text(filter.entity),
        key: text(filter.key),
        tenant,
        since: filter.since,
        until: filter.until,
    }))
}

pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let limit = call.query.size("limit");
    let before = call.query.integer("before").unwrap_or(i64::MAX);
    let (pool, counts) = (&call.context.pool, call.query.flag("count"));
    let (items, count) = match query_filter(&call) {
        Some(filter) => {
            let items = admin::list(pool, &filter, before, limit.into()).await?;
            let count = if counts {
                Some(admin::count(pool, &filter).await?)
            } else {
                None
            };
            (items, count)
        }
        None => (Vec::new(), counts.then_some(0)),
    };
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = items.last().filter(|_| full).map(|last| last.id);
    json(&DeadLetterPage { items, next, count })
}

pub(super) async fn show(call: Call) -> Result<Response, Problem> {
    let id = &call.id;
    let none = || Problem::not_found(format!("there is no dead letter {id}"));
    let tenant = call.tenant(None).map_err(|NothingMatches| none())?;
    let filter = DeadLetterFilter {
        ids: Some(vec![id.parse().map_err(|_| none())?]),
        listener: Some(call.context.listener.to_string()),
        tenant,
        ..DeadLetterFilter::default()
    };
    let found = admin::show(&call.context.pool, &filter).await?;
    json(&found.ok_or_else(none)?)
}

pub(super) async fn redrive(call: Call) -> Result<Response, Problem> {
    let count = match body_filter(&call)? {
        Some(filter) => admin::redrive_selected(&call.context.pool, &filter).await?,
        None => 0,
    };
    affected(count, &AffectedCount { count })
}

pub(super) async fn drop_selected(call: Call) -> Result<Response, Problem> {
    let count = match body_filter(&call)? {
        Some(filter) => admin::drop_selected(&call.context.pool, &filter).await?,
        None => 0,
    };
    affected(count, &AffectedCount { count })
}

/// Streams all matches as lines of JSON, the oldest first.
pub(super) fn export(call: Call) -> Response {
    let kind = [(CONTENT_TYPE, LINES)];
    let Some(filter) = query_filter(&call) else {
        return (kind, Body::empty()).into_response();
    };
    let context = call.context;
    let lines = stream::try_unfold(0, move |after| {
        let (pool, filter) = (context.pool.clone(), filter.clone());
        async move {
            let page = admin::page(&pool, &filter, after, EXPORT_PAGE).await;
            let page = page.map_err(io::Error::other)?;
            let Some(last) = page.last() else {
                return Ok::<_, io::Error>(None);
            };
            let after = last.row.id;
            let mut text = Vec::new();
            for letter in &page {
                serde_json::to_writer(&mut text, letter)?;
                text.push(b'\n');
            }
            Ok(Some((text, after)))
        }
    });
    (kind, Body::from_stream(lines)).into_response()
}
