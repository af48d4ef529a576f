//! Status that a pod of a listener reports over HTTP on `/status`, for the operator.
//!
//! No field holds a secret: messages name fields and places, never values.

use serde::{Deserialize, Serialize};

/// Path of the status on the pod's HTTP port.
pub const STATUS_PATH: &str = "/status";

/// HTTP port of a listener's pod in the cluster.
pub const STATUS_PORT: u16 = 9464;

/// State of one pod at one moment. Unknown fields are ignored, so that an operator can read the
/// status of a newer listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Name of the pod.
    pub pod: String,
    /// What the pod does at the moment.
    pub role: Role,
    /// SHA-256 in hexadecimal of the bundle that is loaded; absent before the first one.
    pub bundle: Option<String>,
    /// Observers of that bundle that do not compile and therefore do not run.
    #[serde(default)]
    pub refused: Vec<ObserverError>,
    /// Why the pod does not work although it should, if so.
    pub problem: Option<PodProblem>,
    /// Shards that the pod owns.
    #[serde(default)]
    pub shards: Vec<OwnedShard>,
    /// Shards in which work waits without progress: those of the pod, and unowned ones that it
    /// should own.
    #[serde(default)]
    pub stalled: Vec<StalledShard>,
    /// Whether the database logs what the observers of that bundle watch; absent before this pod has
    /// looked.
    #[serde(default)]
    pub tracking: Option<TrackingReport>,
    /// Receivers that this pod leaves alone for the moment, as they fail.
    #[serde(default)]
    pub open_circuit_breakers: OpenCircuitBreakers,
    /// Number of members of the fleet that the pod sees; 0 before it has looked.
    #[serde(default)]
    pub members: u32,
    /// Age in whole seconds of the oldest unfinished event; 0 if none waits.
    #[serde(default)]
    pub lag_seconds: u64,
    /// Number of committed events that are not read yet, an upper bound.
    #[serde(default)]
    pub backlog: u64,
    /// Number of deliveries that are not finished yet.
    #[serde(default)]
    pub pending: u64,
    /// How far the history of the pod's shards is; absent where none is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// What keeps the pod from reading the source of the change log, or is about to, if so:
    /// [`SOURCE_NOT_READ`], [`SLOT_LOST`], [`OFFSET_LOST`] or [`SLOT_AT_RISK`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PodProblem>,
}

/// Reason of a source: it is not read.
pub const SOURCE_NOT_READ: &str = "SourceNotRead";

/// Reason of a source: its slot does not hold what comes next, so changes are missing.
pub const SLOT_LOST: &str = "SlotLost";

/// Reason of a source: a topic does not hold the records that come next, so changes are missing.
pub const OFFSET_LOST: &str = "OffsetLost";

/// Reason of a source: its slot is about to be invalidated.
pub const SLOT_AT_RISK: &str = "SlotAtRisk";

/// How far the history of a pod's shards is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchReport {
    /// Age in whole seconds of the oldest event without a document; 0 if there is none.
    #[serde(default)]
    pub lag_seconds: u64,
    /// Why documents cannot be written at the moment, with the remedy, if so. It stays the same while
    /// the cause does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the latest gap was recorded, in RFC 3339: events left the change log before they had
    /// documents. Absent if there is none within the history's retention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_since: Option<String>,
}

/// What a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It has no bundle yet, or cannot use the one that it has.
    Starting,
    /// It is a member of the fleet and owns no shard.
    Standby,
    /// It owns at least one shard.
    Active,
    /// It finishes attempts in flight and starts no new ones.
    Stopping,
}

/// Observer that a pod cannot run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObserverError {
    /// The observer, as `namespace/name`.
    pub observer: String,
    /// Field of the resource, such as `spec.when`.
    pub path: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// What keeps observers from doing what they say because the database does not log it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackingReport {
    /// So many at most that a report stays small; one of each observer before the second of any.
    #[serde(default)]
    pub findings: Vec<TrackingFinding>,
    /// Number of findings that are left out.
    #[serde(default)]
    pub left_out: u32,
}

/// Reason of a finding: there is no table of that name.
pub const TABLE_MISSING: &str = "TableMissing";

/// Reason of a finding: changes of the table are not logged under its name.
pub const TABLE_NOT_TRACKED: &str = "TableNotTracked";

/// Reason of a finding: the table is tracked, and its changes are not logged as they should be.
pub const CAPTURE_BROKEN: &str = "CaptureBroken";

/// Reason of a finding: events of the table do not have a column that is looked at.
pub const COLUMN_MISSING: &str = "ColumnMissing";

/// Something that keeps an observer from doing what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackingFinding {
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Place in the resource, such as `spec.events.entity`.
    pub path: String,
    /// Why, in the form that conditions have: [`TABLE_MISSING`], [`TABLE_NOT_TRACKED`],
    /// [`CAPTURE_BROKEN`] or [`COLUMN_MISSING`].
    pub reason: String,
    /// What is wrong, with the remedy.
    pub message: String,
}

/// Circuit breakers that are not closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenCircuitBreakers {
    /// Those that have been open for longest, few enough to keep a report small.
    #[serde(default)]
    pub endpoints: Vec<OpenCircuitBreaker>,
    /// Number of endpoints beyond these.
    #[serde(default)]
    pub left_out: u32,
}

/// An endpoint whose circuit breaker is not closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenCircuitBreaker {
    /// Since when, in RFC 3339.
    pub since: String,
    /// Scheme, host and port, such as `https://shop.example:443`.
    pub endpoint: String,
    /// State of the circuit breaker.
    pub state: BreakerState,
    /// Number of actions whose deliveries it holds back.
    pub actions: u32,
}

/// What a circuit breaker that is not closed lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BreakerState {
    /// One attempt or few, to see whether the receiver is back, or little by little.
    HalfOpen,
    /// Nothing.
    Open,
}

/// Why a pod does not do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodProblem {
    /// Reason in the form of conditions, such as `DatabaseUnreachable`.
    pub reason: String,
    /// Explanation with the remedy.
    pub message: String,
}

/// Shard that a pod owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedShard {
    /// Number of the shard.
    pub shard: u16,
    /// Fencing number that its checkpoints carry.
    pub epoch: i64,
    /// Time since when the pod owns it, in RFC 3339.
    pub since: String,
    /// Age in whole seconds of the shard's oldest unfinished event; 0 if none waits.
    #[serde(default)]
    pub lag_seconds: u64,
}

/// Reason of a stalled shard: an open transaction blocks the next window.
pub const BLOCKED_BY_TRANSACTION: &str = "BlockedByTransaction";

/// Reason of a stalled shard: as many attempts are in flight as are allowed.
pub const CONCURRENCY_LIMIT_REACHED: &str = "ConcurrencyLimitReached";

/// Reason of a stalled shard: an endpoint responds with errors, or not at all.
pub const ENDPOINT_FAILING: &str = "EndpointFailing";

/// Reason of a stalled shard: no pod owns it.
pub const SHARD_UNOWNED: &str = "ShardUnowned";

/// Reason of a stalled shard: the database does not respond.
pub const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";

/// Shard in which work waits without progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StalledShard {
    /// Number of the shard.
    pub shard: u16,
    /// Why, in the form that conditions have: [`BLOCKED_BY_TRANSACTION`], [`CONCURRENCY_LIMIT_REACHED`],
    /// [`ENDPOINT_FAILING`], [`SHARD_UNOWNED`] or [`DATABASE_UNREACHABLE`].
    pub reason: String,
    /// Explanation with the remedy. It stays the same while the cause does, so it holds no number
    /// that grows.
    pub message: String,
    /// Time since when there is no progress, in RFC 3339.
    pub since: String,
}
