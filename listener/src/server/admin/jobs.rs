//! Jobs in the admin API.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use queue::{JobFilter, JobState, JobView};
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{AdminContext, AffectedCount, DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE};

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/jobs", get(list))
        .route("/jobs/retry", post(retry))
        .route("/jobs/cancel", post(cancel))
        .route("/jobs/{id}", get(show))
}

/// Query string of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobQuery {
    observer: Option<String>,
    action: Option<String>,
    state: Option<JobState>,
    limit: Option<u32>,
}

/// Body of a change: ids, or `all` with observer and action.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobSelector {
    ids: Option<Vec<String>>,
    /// All jobs, or those of the observer and the action if given.
    #[serde(default)]
    all: bool,
    observer: Option<String>,
    action: Option<String>,
}

/// Oldest matches, and how many match in all.
#[derive(Debug, Serialize)]
struct JobPage {
    items: Vec<JobView>,
    count: u64,
}

impl JobSelector {
    fn into_filter(self) -> Result<JobFilter, Problem> {
        if self.ids.is_some() == self.all {
            return Err(Problem::bad_request(
                "give either `ids`, or `all: true`, with observer and action to narrow it down",
            ));
        }
        let ids = self.ids.iter().flatten();
        if ids.clone().any(|id| id.contains('\0')) {
            return Err(Problem::bad_request("an id holds a NUL character"));
        }
        Problem::reject_nul([("observer", &self.observer), ("action", &self.action)])?;
        Ok(JobFilter {
            ids: self.ids,
            observer: self.observer,
            action: self.action,
            state: None,
        })
    }
}

async fn list(
    Extension(context): Extension<AdminContext>,
    query: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Json<JobPage>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE_SIZE);
    if !(1..=MAX_PAGE_SIZE).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "limit must be 1 to {MAX_PAGE_SIZE}"
        )));
    }
    Problem::reject_nul([("observer", &query.observer), ("action", &query.action)])?;
    let filter = JobFilter {
        ids: None,
        observer: query.observer,
        action: query.action,
        state: query.state,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (items, count) = context.queue.list(&filter, limit).await?;
    Ok(Json(JobPage { items, count }))
}

async fn show(
    Extension(context): Extension<AdminContext>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let none = || {
        Problem::not_found(format!(
            "there is no job {id}: it may be completed, or have become a dead letter"
        ))
    };
    if id.contains('\0') {
        return Err(none());
    }
    context.queue.show(&id).await?.map(Json).ok_or_else(none)
}

async fn retry(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<JobSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let count = context.queue.retry(&selector?.0.into_filter()?).await?;
    Ok(Json(AffectedCount { count }))
}

async fn cancel(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<JobSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let count = context.queue.cancel(&selector?.0.into_filter()?).await?;
    Ok(Json(AffectedCount { count }))
}
