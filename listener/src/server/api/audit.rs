//! The audit in the HTTP API.

use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::endpoint::{Call, json};
use super::problem::Problem;
use crate::audit::{self, AuditEntry, AuditFilter};

/// Page of changes, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct AuditPage {
    /// The changes.
    items: Vec<AuditEntry>,
    /// `before` of the next page, if there is one.
    next: Option<i64>,
}

pub(super) async fn list(call: Call) -> Result<Response, Problem> {
    let query = &call.query;
    let filter = AuditFilter {
        listener: call.context.listener.to_string(),
        operation: query.text("operation"),
        actor: query.text("actor"),
        since: query.time("since"),
        until: query.time("until"),
    };
    let limit = query.size("limit");
    let before = query.integer("before").unwrap_or(i64::MAX);
    let items = audit::list(&call.context.pool, &filter, before, limit.into()).await?;
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = items.last().filter(|_| full).map(|last| last.id);
    json(&AuditPage { items, next })
}
