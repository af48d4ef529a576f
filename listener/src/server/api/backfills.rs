//! Backfills in the HTTP API.

use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{Call, affected, json};
use super::problem::Problem;
use super::selection::{FilterText, RowId, has_nul, invalid};
use crate::backfill::{
    self, Backfill, BackfillFilter, BackfillRequest, Change, CheckError, StoreError,
};

/// Backfills of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct BackfillList {
    /// The newest first, at most 1000.
    items: Vec<Backfill>,
}

/// A backfill to start.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBackfill {
    /// Table, as `schema.table`.
    entity: FilterText,
    /// The only observer that it is for, `namespace/name`; default is all that watch `Read` of the table.
    observer: Option<FilterText>,
    /// Only rows for which all of these hold, at most 16.
    #[serde(default)]
    #[schemars(length(max = 16))]
    filters: Vec<BackfillFilter>,
    /// Most rows per second, 1 to 1000000; default is as fast as they are delivered.
    #[schemars(with = "Option<u32>", range(min = 1, max = 1_000_000))]
    rate: Option<RowId>,
}

/// A backfill by its id.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackfillId {
    /// Its id.
    id: RowId,
}

pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let context = &call.context;
    let items = backfill::list(&context.pool, &context.listener, None).await?;
    json(&BackfillList { items })
}

pub(super) async fn start(call: Call) -> Result<Response, Problem> {
    let body: NewBackfill = call.json()?;
    let texts = |filter: &BackfillFilter| has_nul(&filter.column) || has_nul(&filter.value);
    if body.filters.iter().any(texts) {
        return Err(invalid("a filter holds a NUL character"));
    }
    let context = &call.context;
    let request = BackfillRequest {
        listener: context.listener.to_string(),
        entity: FilterText::text(Some(body.entity)).unwrap_or_default(),
        observer: FilterText::text(body.observer),
        filters: body.filters,
        rate: body
            .rate
            .map(|RowId(rate)| u32::try_from(rate).unwrap_or(u32::MAX)),
    };
    let source = &context.source;
    match backfill::check(&context.pool, source, &request).await {
        Ok(_) => {}
        Err(CheckError::Table(message)) => return Err(conflict(message)),
        Err(CheckError::Database(error)) => return Err(error.into()),
        Err(error @ CheckError::Source(_)) => return Err(Problem::unavailable(error.to_string())),
    }
    let id = match backfill::start(&context.pool, &request).await {
        Ok(id) => id,
        Err(StoreError::Database(error)) => return Err(error.into()),
        Err(error) => return Err(invalid(error.to_string())),
    };
    show(&call, id).await
}

pub(super) async fn cancel(call: Call) -> Result<Response, Problem> {
    let BackfillId { id: RowId(id) } = call.json()?;
    let context = &call.context;
    let done = backfill::cancel(&context.pool, &context.listener, id).await?;
    changed(&call, id, done).await
}

pub(super) async fn resume(call: Call) -> Result<Response, Problem> {
    let BackfillId { id: RowId(id) } = call.json()?;
    let context = &call.context;
    let done = backfill::resume(&context.pool, &context.listener, id).await?;
    changed(&call, id, done).await
}

async fn changed(call: &Call, id: i64, done: Change) -> Result<Response, Problem> {
    match done {
        Change::Done => show(call, id).await,
        Change::Missing => Err(missing(id)),
        Change::Already(state) => Err(conflict(format!(
            "backfill {id} is {}, so there is nothing to do",
            state.as_str()
        ))),
    }
}

async fn show(call: &Call, id: i64) -> Result<Response, Problem> {
    let context = &call.context;
    let found = backfill::list(&context.pool, &context.listener, Some(id)).await?;
    affected(1, found.first().ok_or_else(|| missing(id))?)
}

/// What is asked for does not fit what is there.
fn conflict(detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, detail)
}

fn missing(id: i64) -> Problem {
    Problem::not_found(format!("the listener has no backfill {id}"))
}
