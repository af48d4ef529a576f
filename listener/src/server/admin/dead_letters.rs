//! Dead letters.

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
use super::{AdminContext, AffectedCount, LISTED, MOST_LISTED};
use crate::dead_letters::admin::{self, DeadLetterDetail, DeadLetterFilter, DeadLetterRow};

/// Most dead letters that an export has in memory.
const PAGE: i64 = 100;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/export", get(export))
        .route("/dead-letters/redrive", post(redrive))
        .route("/dead-letters/drop", post(drop_some))
        .route("/dead-letters/{id}", get(show))
}

/// Those that are meant, by what they are of; all where nothing is given.
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
    /// Of a list: most that it has.
    limit: Option<u32>,
    /// Of a list: those with lower ids than this.
    before: Option<i64>,
}

/// Those that a change is for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetterSelector {
    ids: Option<Vec<i64>>,
    /// All that the filter leaves.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    filter: DeadLetterQuery,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetterPage {
    items: Vec<DeadLetterRow>,
    /// `before` of the next page; nothing where there is none.
    next: Option<i64>,
}

impl DeadLetterQuery {
    fn select(
        self,
        context: &AdminContext,
        ids: Option<Vec<i64>>,
    ) -> Result<DeadLetterFilter, Problem> {
        Problem::unless_texts([
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
    /// A change of everything is asked for in so many words.
    fn select(self, context: &AdminContext) -> Result<DeadLetterFilter, Problem> {
        let listed = self.filter.limit.is_some() || self.filter.before.is_some();
        if self.ids.is_some() == self.all || listed {
            return Err(Problem::bad_request(
                "give either `ids`, or `all: true` with a `filter` of observer, action, kind, entity, key, tenant, \
                 since and until",
            ));
        }
        self.filter.select(context, self.ids)
    }
}

async fn list(
    Extension(context): Extension<AdminContext>,
    filter: Result<Query<DeadLetterQuery>, QueryRejection>,
) -> Result<Json<DeadLetterPage>, Problem> {
    let Query(filter) = filter?;
    let limit = filter.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "limit must be 1 to {MOST_LISTED}"
        )));
    }
    let before = filter.before.unwrap_or(i64::MAX);
    let what = filter.select(&context, None)?;
    let items = admin::list(&context.pool, &what, before, limit.into()).await?;
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
    let what = DeadLetterQuery::default().select(&context, Some(vec![id]))?;
    let found = admin::show(&context.pool, &what).await?;
    found.map(Json).ok_or_else(none)
}

async fn redrive(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<DeadLetterSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let what = selector?.0.select(&context)?;
    let count = admin::redrive_selected(&context.pool, &what).await?;
    Ok(Json(AffectedCount { count }))
}

async fn drop_some(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<DeadLetterSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let what = selector?.0.select(&context)?;
    let count = admin::drop_selected(&context.pool, &what).await?;
    Ok(Json(AffectedCount { count }))
}

/// A line of JSON for each, the oldest first, as they are read.
async fn export(
    Extension(context): Extension<AdminContext>,
    filter: Result<Query<DeadLetterQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = filter?;
    if filter.limit.is_some() || filter.before.is_some() {
        return Err(Problem::bad_request(
            "an export has all that the filter leaves; leave out limit and before",
        ));
    }
    let what = filter.select(&context, None)?;
    let lines = stream::try_unfold(0, move |after| {
        let (pool, what) = (context.pool.clone(), what.clone());
        async move {
            let page = admin::page(&pool, &what, after, PAGE).await;
            let page = page.map_err(io::Error::other)?;
            let Some(last) = page.last() else {
                return Ok::<_, io::Error>(None);
            };
            let after = last.stored.id;
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
