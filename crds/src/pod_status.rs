//! What a listener's pod tells about itself on `/status`, for the operator to sum up.
//!
//! No field holds a secret: messages name fields and places, never values.

use serde::{Deserialize, Serialize};

/// Path of the report on the pod's HTTP port.
pub const STATUS_PATH: &str = "/status";

/// HTTP port of a listener's pod in the cluster.
pub const STATUS_PORT: u16 = 9464;

/// One pod at one moment. Unknown fields are passed over, so that an operator reads the report
/// of a newer listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Name of the pod.
    pub pod: String,
    /// What the pod does now.
    pub role: Role,
    /// SHA-256 in hexadecimal of the bundle that is loaded; absent before the first.
    pub bundle: Option<String>,
    /// Observers of that bundle that do not compile and therefore do not run.
    #[serde(default)]
    pub refused: Vec<ObserverError>,
    /// Why no work is done that should be, if so.
    pub problem: Option<PodProblem>,
    /// The shards that this pod owns.
    #[serde(default)]
    pub shards: Vec<OwnedShard>,
    /// Those shards, and free ones that this pod should have, in which work waits and does not get
    /// on.
    #[serde(default)]
    pub stalled: Vec<StalledShard>,
    /// Whether the database logs what the observers of that bundle watch; absent before this pod has
    /// looked.
    #[serde(default)]
    pub tracking: Option<TrackingReport>,
    /// Receivers that this pod leaves alone for the moment, as they fail.
    #[serde(default)]
    pub left_alone: LeftAlone,
    /// Members of the fleet, as this pod sees them; 0 before it has looked.
    #[serde(default)]
    pub members: u32,
    /// Age in whole seconds of the oldest event that is not over; 0 when nothing waits.
    #[serde(default)]
    pub lag_seconds: u64,
    /// Events committed and not read; an upper bound.
    #[serde(default)]
    pub backlog: u64,
    /// Actions read and not over.
    #[serde(default)]
    pub pending: u64,
}

/// What a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It has no bundle yet, or cannot use the one it has.
    Starting,
    /// It takes part, and no shard is its own now.
    Standby,
    /// It works on at least one shard.
    Active,
    /// It finishes what is under way and does not begin anything new.
    Stopping,
}

/// An observer that a pod refuses to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObserverError {
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Place in the resource, such as `spec.when`.
    pub path: String,
    /// What is wrong and what would be right.
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

/// Receivers whose circuit breaker is not closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftAlone {
    /// So many at most that a report stays small; those that have been left alone for longest come
    /// first.
    #[serde(default)]
    pub receivers: Vec<ReceiverLeftAlone>,
    /// Number of receivers that are left out.
    #[serde(default)]
    pub left_out: u32,
}

/// A receiver whose circuit breaker is not closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiverLeftAlone {
    /// Since when, in RFC 3339.
    pub since: String,
    /// Scheme, host and port, such as `https://shop.example:443`.
    pub receiver: String,
    /// What is tried.
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
    /// A reason in the form that conditions have, such as `DatabaseUnreachable`.
    pub reason: String,
    /// In words, with the remedy.
    pub message: String,
}

/// A shard that a pod owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedShard {
    /// Its number.
    pub shard: u16,
    /// The epoch that its saves carry.
    pub epoch: i64,
    /// Since when this pod owns it, in RFC 3339.
    pub since: String,
    /// Age in whole seconds of the shard's oldest event that is not over; 0 when nothing waits.
    #[serde(default)]
    pub lag_seconds: u64,
}

/// Reason of a stalled shard: a transaction that was left open holds the next window up.
pub const HOLDING_TRANSACTION: &str = "HoldingTransaction";

/// Reason of a stalled shard: all attempts that may be under way at once are under way.
pub const DISPATCH_FULL: &str = "DispatchFull";

/// Reason of a stalled shard: a receiver answers with errors, or not at all.
pub const RECEIVER_FAILING: &str = "ReceiverFailing";

/// Reason of a stalled shard: no pod has its Lease.
pub const NO_LEASE: &str = "NoLease";

/// Reason of a stalled shard: the database does not answer.
pub const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";

/// A shard in which work waits and does not get on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StalledShard {
    /// Its number.
    pub shard: u16,
    /// Why, in the form that conditions have: [`HOLDING_TRANSACTION`], [`DISPATCH_FULL`],
    /// [`RECEIVER_FAILING`], [`NO_LEASE`] or [`DATABASE_UNREACHABLE`].
    pub reason: String,
    /// In words, with the remedy. It stays the same while the cause does, so it holds no figure
    /// that grows.
    pub message: String,
    /// Since when it has not got on, in RFC 3339.
    pub since: String,
}
