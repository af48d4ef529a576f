//! Dead letters in the admin API.

use std::io;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use chrono::{DateTime, Utc};
use futures::stream;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{AdminContext, AffectedCount, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE};
use crate::dead_letters::admin::{self, DeadLetterDetail, DeadLetterFilter, DeadLetterRow};

/// Dead letters in memory during an export.
const EXPORT_PAGE: i64 = 100;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/export", get(export))
        .route("/dead-letters/redrive", post(redrive))
        .route("/dead-letters/drop", post(drop_selected))
        .route("/dead-letters/{id}", get(show))
}

/// Query string of a list or an export; an empty one matches all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetterQuery {
    observer: Option<String>,
    action: Option<String>,
    kind: Option<String>,
    entity: Option<String>,
    key: Option<String>,
    tenant: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    /// Size of the page; lists only.
    limit: Option<u32>,
    /// Only ids below this one; lists only.
    before: Option<i64>,
}

/// Body of a change: ids, or `all` with a filter.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetterSelector {
    ids: Option<Vec<i64>>,
    /// All that match the filter.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    filter: DeadLetterQuery,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetterPage {
    items: Vec<DeadLetterRow>,
    /// `before` of the next page, if there is one.
    next: Option<i64>,
}

impl DeadLetterQuery {
    fn into_filter(
        self,
        context: &AdminContext,
        ids: Option<Vec<i64>>,
    ) -> Result<DeadLetterFilter, Problem> {
        Problem::reject_nul([
            ("observer", &self.observer),
            ("action", &self.action),
            ("kind", &self.kind),
            ("entity", &self.entity),
            ("key", &self.key),
            ("tenant", &self.tenant),
        ])?;
        Ok(DeadLetterFilter {
            ids,
            listener: Some(context.listener.to_string()),
            observer: self.observer,
            action: self.action,
            kind: self.kind,
            entity: self.entity,
            key: self.key,
            tenant: self.tenant,
            since: self.since,
            until: self.until,
        })
    }
}

impl DeadLetterSelector {
    /// Returns the filter. A change of all must say so.
    fn into_filter(self, context: &AdminContext) -> Result<DeadLetterFilter, Problem> {
        let paged = self.filter.limit.is_some() || self.filter.before.is_some();
        if self.ids.is_some() == self.all || paged {
            return Err(Problem::bad_request(
                "give either `ids`, or `all: true` with a `filter` of observer, action, kind, entity, key, tenant, \
                 since and until",
            ));
        }
        self.filter.into_filter(context, self.ids)
    }
}

async fn list(
    Extension(context): Extension<AdminContext>,
    filter: Result<Query<DeadLetterQuery>, QueryRejection>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let Query(filter) = filter?;
    let limit = filter.limit.unwrap_or(DEFAULT_PAGE_SIZE);
    if !(1..=MAX_PAGE_SIZE).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "limit must be 1 to {MAX_PAGE_SIZE}"
        )));
    }
    let before = filter.before.unwrap_or(i64::MAX);
    let filter = filter.into_filter(&context, None)?;
    let items = admin::list(&context.pool, &filter, before, limit.into()).await?;
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = items.last().filter(|_| full).map(|last| last.id);
    Ok(Json(DeadLetterPage { items, next }))
}

async fn show(
    Extension(context): Extension<AdminContext>,
    Path(id): Path<String>,
) -> Result<Json<DeadLetterDetail>, Problem> {
    let none = || Problem::not_found(format!("there is no dead letter {id}"));
    let id: i64 = id.parse().map_err(|_| none())?;
    let filter = DeadLetterQuery::default().into_filter(&context, Some(vec![id]))?;
    let found = admin::show(&context.pool, &filter).await?;
    found.map(Json).ok_or_else(none)
}

async fn redrive(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<DeadLetterSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let filter = selector?.0.into_filter(&context)?;
    let count = admin::redrive_selected(&context.pool, &filter).await?;
    Ok(Json(AffectedCount { count }))
}

async fn drop_selected(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<DeadLetterSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let filter = selector?.0.into_filter(&context)?;
    let count = admin::drop_selected(&context.pool, &filter).await?;
    Ok(Json(AffectedCount { count }))
}

/// Streams all matches as lines of JSON, the oldest first.
async fn export(
    Extension(context): Extension<AdminContext>,
    filter: Result<Query<DeadLetterQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = filter?;
    if filter.limit.is_some() || filter.before.is_some() {
        return Err(Problem::bad_request(
            "an export has all that match the filter; leave out limit and before",
        ));
    }
    let filter = filter.into_filter(&context, None)?;
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
    let kind = [(CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}
