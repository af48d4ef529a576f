//! The live tail in the HTTP API.

use std::time::Duration;

use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::endpoint::{Call, json};
use super::problem::Problem;
use crate::live_tail::{NotFollowed, TailRequest, TailedEvent};

/// Events that were committed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct LiveEvents {
    /// The events, in the order in which they were read.
    items: Vec<TailedEvent>,
    /// `after` of the next request.
    next: String,
    /// Whether events may be missing before these: `after` is of another process, or too long ago.
    missed: bool,
}

pub(super) async fn tail(call: Call) -> Result<Response, Problem> {
    let query = &call.query;
    let after = query.text("after");
    let request = TailRequest {
        after: after.as_deref(),
        limit: usize::try_from(query.size("limit")).unwrap_or(usize::MAX),
        tenant: call.caller.tenant.as_deref(),
        wait: Duration::from_secs(query.size("wait").into()),
    };
    let page = call.context.live.read(&request).await;
    let page = page.map_err(|error @ NotFollowed| Problem::unavailable(error.to_string()))?;
    json(&LiveEvents {
        items: page.items,
        next: page.next,
        missed: page.missed,
    })
}
