//! Jobs and their claims.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// FIFO lane: one observer, action and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// Non-negative hash of tenant, entity and key, which determines the shard.
    pub hash: u32,
}

/// Priority of a job. Jobs of a higher priority are claimed first, even if others are due earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Claimed before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// Claimed after all others.
    Low,
}

/// Immutable part of a job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Dedup key and id of the delivery, unique among the listener's jobs.
    pub id: String,
    /// FIFO lane.
    pub lane: Lane,
    /// Position of the event in the change log. Jobs of a lane are enqueued in this order.
    pub log_id: i64,
    /// Id of the event.
    pub event_id: String,
    /// Entity of the event.
    pub entity: String,
    /// Key of the event.
    pub key: Option<String>,
    /// Tenant of the event.
    pub tenant: Option<String>,
    /// Priority.
    pub priority: Priority,
    /// The event, as JSON of the listener's own format.
    pub event: Box<RawValue>,
}

/// Job to enqueue.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The job.
    pub job: Job,
    /// Delay until its next attempt, from now.
    pub delay: Duration,
    /// Number of earlier attempts.
    pub attempts: u32,
    /// Latest attempts: a JSON array, the last one last.
    pub history: Box<RawValue>,
}

/// Job that a worker holds under a claim.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// The job.
    pub job: Job,
    /// The claim.
    pub claim: ClaimToken,
    /// Number of earlier attempts, including those whose worker's lease expired.
    pub attempts: u32,
    /// Latest attempts that were recorded: a JSON array, the last one last.
    pub history: Box<RawValue>,
    /// Time at which the job was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// Time from when the job was due until it was claimed.
    pub queue_delay: Duration,
}

/// Fencing token of one claim of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimToken {
    /// The job, as its backend addresses it.
    pub job_ref: String,
    /// Generation, which grows with every claim of the job.
    pub generation: i64,
}

/// Jobs of one lane that are claimed together, in the order in which to attempt them.
#[derive(Clone, Debug)]
pub struct LaneBatch {
    /// Never empty, at most [`MAX_JOBS_PER_LANE`](crate::MAX_JOBS_PER_LANE).
    pub jobs: Vec<ClaimedJob>,
}

/// Outcome of a claimed job.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    /// The delivery succeeded.
    Completed,
    /// The delivery failed and is retried.
    Retry {
        /// Delay until the next attempt, from now.
        delay: Duration,
        /// Number of attempts so far.
        attempts: u32,
        /// Latest attempts: a JSON array.
        history: Box<RawValue>,
    },
    /// The job is given up and written to the [`DeadLetterSink`](crate::DeadLetterSink).
    Discarded {
        /// Number of attempts so far.
        attempts: u32,
        /// Latest attempts: a JSON array.
        history: Box<RawValue>,
    },
    /// The job was not attempted. It and those behind it return to their state before the claim.
    Released,
}

/// Claim that its worker has finished.
#[derive(Clone, Debug)]
pub struct FinishedClaim {
    /// The job.
    pub job: Arc<Job>,
    /// The claim.
    pub claim: ClaimToken,
    /// Outcome of the job.
    pub outcome: JobOutcome,
    /// Time at which the job was enqueued.
    pub enqueued_at: DateTime<Utc>,
}

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum JobState {
    /// First of its lane, and can be claimed.
    Available,
    /// First of its lane, and waits for its time, such as for its next attempt. It counts as available in
    /// statistics as soon as that has come.
    Scheduled,
    /// A worker holds it.
    Running,
    /// It waits behind another of its lane.
    Blocked,
    /// It is done, and kept for a while.
    Completed,
}

impl JobState {
    /// Every state, in the order of their declaration.
    pub const ALL: [Self; 5] = [
        Self::Available,
        Self::Scheduled,
        Self::Running,
        Self::Blocked,
        Self::Completed,
    ];

    /// Name in commands, in the API and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Completed => "completed",
        }
    }
}

/// Job as commands and the API show it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct JobView {
    /// Id of the job.
    pub id: String,
    /// State of the job.
    pub state: JobState,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Id of the event.
    pub event_id: String,
    /// Entity of the event.
    pub entity: String,
    /// Key of the event.
    pub key: Option<String>,
    /// Tenant of the event.
    pub tenant: Option<String>,
    /// High, Normal or Low.
    pub priority: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Time at which the job was enqueued.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub enqueued_at: DateTime<Utc>,
    /// Time of the next attempt; for a finished job, the time at which it ended.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub scheduled_at: DateTime<Utc>,
    /// Worker that holds the job.
    pub worker: Option<String>,
    /// Error of the last attempt.
    pub error: Option<String>,
    /// Latest attempts; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub history: Option<Box<RawValue>>,
    /// The event; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub event: Option<Box<RawValue>>,
}

/// Filter of jobs; the default matches all.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only these ids.
    pub ids: Option<Vec<String>>,
    /// Only jobs of this observer, `namespace/name`.
    pub observer: Option<String>,
    /// Only jobs of this action.
    pub action: Option<String>,
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this tenant.
    pub tenant: Option<String>,
}
