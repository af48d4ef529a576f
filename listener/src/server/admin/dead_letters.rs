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
use super::{Ground, LISTED, MOST_LISTED};
use crate::dead_letters::admin::{self, Full, Selection, Stored};

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
struct Filter {
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
struct Chosen {
    ids: Option<Vec<i64>>,
    /// All that the filter leaves.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    filter: Filter,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Stored>,
    /// `before` of the next page; nothing where there is none.
    next: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Count {
    count: u64,
}

impl Filter {
    fn select(self, ground: &Ground, ids: Option<Vec<i64>>) -> Result<Selection, Problem> {
        Problem::unless_texts([
            ("observer", &self.observer),
            ("action", &self.action),
            ("kind", &self.kind),
            ("entity", &self.entity),
            ("key", &self.key),
            ("tenant", &self.tenant),
        ])?;
        Ok(Selection {
            ids,
            listener: Some(ground.listener.to_string()),
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

impl Chosen {
    /// A change of everything is asked for in so many words.
    fn select(self, ground: &Ground) -> Result<Selection, Problem> {
        let listed = self.filter.limit.is_some() || self.filter.before.is_some();
        if self.ids.is_some() == self.all || listed {
            return Err(Problem::bad_request(
                "give either `ids`, or `all: true` with a `filter` of observer, action, kind, entity, key, tenant, \
                 since and until",
            ));
        }
        self.filter.select(ground, self.ids)
    }
}

async fn list(
    Extension(ground): Extension<Ground>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(filter) = filter?;
    let limit = filter.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "limit must be 1 to {MOST_LISTED}"
        )));
    }
    let before = filter.before.unwrap_or(i64::MAX);
    let what = filter.select(&ground, None)?;
    let items = admin::list(&ground.pool, &what, before, limit.into()).await?;
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = items.last().filter(|_| full).map(|last| last.id);
    Ok(Json(Page { items, next }))
}

async fn show(
    Extension(ground): Extension<Ground>,
    Path(id): Path<String>,
) -> Result<Json<Full>, Problem> {
    let none = || Problem::not_found(format!("there is no dead letter {id}"));
    let id: i64 = id.parse().map_err(|_| none())?;
    let what = Filter::default().select(&ground, Some(vec![id]))?;
    let found = admin::show(&ground.pool, &what).await?;
    found.map(Json).ok_or_else(none)
}

async fn redrive(
    Extension(ground): Extension<Ground>,
    chosen: Result<Json<Chosen>, JsonRejection>,
) -> Result<Json<Count>, Problem> {
    let what = chosen?.0.select(&ground)?;
    let count = admin::redrive_selected(&ground.pool, &what).await?;
    Ok(Json(Count { count }))
}

async fn drop_some(
    Extension(ground): Extension<Ground>,
    chosen: Result<Json<Chosen>, JsonRejection>,
) -> Result<Json<Count>, Problem> {
    let what = chosen?.0.select(&ground)?;
    let count = admin::drop_selected(&ground.pool, &what).await?;
    Ok(Json(Count { count }))
}

/// A line of JSON for each, the oldest first, as they are read.
async fn export(
    Extension(ground): Extension<Ground>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(filter) = filter?;
    if filter.limit.is_some() || filter.before.is_some() {
        return Err(Problem::bad_request(
            "an export has all that the filter leaves; leave out limit and before",
        ));
    }
    let what = filter.select(&ground, None)?;
    let lines = stream::try_unfold(0, move |after| {
        let (pool, what) = (ground.pool.clone(), what.clone());
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
