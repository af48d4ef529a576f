//! Jobs.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use queue::{JobFilter, JobState, JobView};
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::{AdminContext, AffectedCount, LISTED, MOST_LISTED};

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/jobs", get(list))
        .route("/jobs/retry", post(retry))
        .route("/jobs/cancel", post(cancel))
        .route("/jobs/{id}", get(show))
}

/// Those that are query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobQuery {
    observer: Option<String>,
    action: Option<String>,
    state: Option<JobState>,
    limit: Option<u32>,
}

/// Those that a change is for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobSelector {
    ids: Option<Vec<String>>,
    /// All of the observer and the action, where these are given.
    #[serde(default)]
    all: bool,
    observer: Option<String>,
    action: Option<String>,
}

/// The oldest, and how many there are in all.
#[derive(Debug, Serialize)]
struct JobPage {
    items: Vec<JobView>,
    count: u64,
}

impl JobSelector {
    fn select(self) -> Result<JobFilter, Problem> {
        if self.ids.is_some() == self.all {
            return Err(Problem::bad_request(
                "give either `ids`, or `all: true` with observer and action where not all are meant",
            ));
        }
        let ids = self.ids.iter().flatten();
        if ids.clone().any(|id| id.contains('\0')) {
            return Err(Problem::bad_request("an id holds a NUL character"));
        }
        Problem::unless_texts([("observer", &self.observer), ("action", &self.action)])?;
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
    let limit = query.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "limit must be 1 to {MOST_LISTED}"
        )));
    }
    Problem::unless_texts([("observer", &query.observer), ("action", &query.action)])?;
    let what = JobFilter {
        ids: None,
        observer: query.observer,
        action: query.action,
        state: query.state,
    };
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let (items, count) = context.queue.list(&what, most).await?;
    Ok(Json(JobPage { items, count }))
}

async fn show(
    Extension(context): Extension<AdminContext>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let none = || {
        Problem::not_found(format!(
            "there is no job {id}: it may be done, or have become a dead letter"
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
    let count = context.queue.retry(&selector?.0.select()?).await?;
    Ok(Json(AffectedCount { count }))
}

async fn cancel(
    Extension(context): Extension<AdminContext>,
    selector: Result<Json<JobSelector>, JsonRejection>,
) -> Result<Json<AffectedCount>, Problem> {
    let count = context.queue.cancel(&selector?.0.select()?).await?;
    Ok(Json(AffectedCount { count }))
}
