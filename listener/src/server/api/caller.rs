//! Who the token of a request belongs to.

use axum::http::StatusCode;
use axum::response::Response;
use crds::config::ApiRole;
use schemars::JsonSchema;
use serde::Serialize;

use super::endpoint::{Call, json};
use super::problem::Problem;

/// Caller of the API.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct CallerInfo {
    /// Name of the token, or of the user of the cluster.
    name: String,
    /// The only tenant that it sees and changes; all where absent.
    tenant: Option<String>,
    /// Whether it may change something.
    operate: bool,
}

pub(super) async fn show(call: Call) -> Result<Response, Problem> {
    let caller = &call.caller;
    let authorized = call.context.auth.authorize(caller, ApiRole::Operate);
    let operate = match authorized.await {
        Ok(()) => true,
        Err(problem) if problem.status() == StatusCode::FORBIDDEN => false,
        Err(problem) => return Err(problem),
    };
    json(&CallerInfo {
        name: caller.name.to_string(),
        tenant: caller.tenant.as_deref().map(str::to_owned),
        operate,
    })
}
