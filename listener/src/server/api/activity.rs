//! The activity of the last hour in the HTTP API.

use axum::response::Response;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::endpoint::{Call, json};
use super::problem::Problem;
use crate::coordination::heartbeat;
use crate::telemetry::activity::{self, MinuteActivity};

/// Activity of the last hour.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct HourActivity {
    /// The last 60 minutes, the oldest first.
    #[schemars(length(min = 60, max = 60))]
    items: Vec<MinuteInfo>,
}

/// What all processes did in a minute.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct MinuteInfo {
    /// When the minute begins.
    #[schemars(with = "String", extend("format" = "date-time"))]
    at: DateTime<Utc>,
    /// Events read from the change log.
    events: u64,
    /// Deliveries that succeeded.
    delivered: u64,
    /// Attempts that failed.
    failed: u64,
    /// Dead letters written.
    dead_letters: u64,
    /// Greatest age of the oldest unfinished event, in seconds.
    lag_seconds: u64,
}

impl From<MinuteActivity> for MinuteInfo {
    fn from(minute: MinuteActivity) -> Self {
        Self {
            at: DateTime::from_timestamp(minute.minute * 60, 0).unwrap_or_default(),
            events: minute.events,
            delivered: minute.delivered,
            failed: minute.failed,
            dead_letters: minute.dead_letters,
            lag_seconds: minute.lag_seconds,
        }
    }
}

pub(super) async fn hour(call: Call) -> Result<Response, Problem> {
    let context = &call.context;
    let all = heartbeat::activity(&context.pool, &context.listener).await?;
    let hour = activity::together(all, Utc::now());
    json(&HourActivity {
        items: hour.into_iter().map(MinuteInfo::from).collect(),
    })
}
