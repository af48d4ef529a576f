//! Documents: an event and what became of it.

use chrono::{DateTime, Utc};
use crds::config::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::SearchError;

/// Maximum number of attempts that a delivery's entry lists: the latest ones.
pub const MAX_ATTEMPTS_LISTED: usize = 20;

/// An event and what became of it. Its JSON is what users get.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Document {
    /// The event's id, which is the document's.
    pub id: String,
    /// Identity of the listener.
    pub listener: String,
    /// The event's number in the change log.
    pub log_id: i64,
    /// `schema.table`, or the name given to `observer.emit`.
    pub entity: String,
    /// The operation.
    pub operation: Operation,
    /// Key of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// When the event's transaction began.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub occurred_at: DateTime<Utc>,
    /// Trace that the event belongs to, 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The row before, without redacted columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub old: Option<Box<RawValue>>,
    /// The row after, without redacted columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub new: Option<Box<RawValue>>,
    /// Columns that differ between the images, redacted ones too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// What each observer made of it, by observer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observers: Vec<ObserverEntry>,
}

/// What one observer made of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct ObserverEntry {
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Why the event does not concern it; absent where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_matched: Option<String>,
    /// Its deliveries, by action and replay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<DeliveryEntry>,
}

/// One delivery of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct DeliveryEntry {
    /// The action's name.
    pub action: String,
    /// Id of the delivery, which receivers get as `webhook-id`.
    pub delivery: String,
    /// The replay that it is part of; absent for a first delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<String>,
    /// Where it is.
    pub state: DeliveryState,
    /// Number of attempts so far, those before a redrive too.
    #[serde(default)]
    pub attempts: u32,
    /// The latest attempts, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<DeliveryAttempt>,
    /// When the next attempt is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub due_at: Option<DateTime<Utc>>,
    /// Id of its job, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Id of its dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<i64>,
    /// Whether its attempts are not known, because a process ended before it could report them: the
    /// state follows from the checkpoint, the jobs and the dead letters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub details_lost: bool,
}

/// Where a delivery is. The order is that in which one overrides another after the same number of
/// attempts.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum DeliveryState {
    /// It has not been attempted yet.
    Pending,
    /// It waits in the job queue for its first attempt, or behind another of its key.
    Queued,
    /// An attempt has failed, and another one is due.
    Retrying,
    /// It is no longer waiting, and its end was not reported: it was delivered, cancelled or dropped.
    Completed,
    /// It was given up on by an action with `onFailure: Drop`.
    Dropped,
    /// It was given up on, and is kept as a dead letter.
    DeadLetter,
    /// The receiver has accepted it.
    Delivered,
}

impl DeliveryState {
    /// Every state, in order.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Queued,
        Self::Retrying,
        Self::Completed,
        Self::Dropped,
        Self::DeadLetter,
        Self::Delivered,
    ];

    /// Returns the name in JSON, searches and facets.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Dropped => "dropped",
            Self::DeadLetter => "deadLetter",
            Self::Delivered => "delivered",
        }
    }

    /// Returns whether nothing follows by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Queued | Self::Retrying)
    }
}

/// One attempt of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct DeliveryAttempt {
    /// When it ended.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: DateTime<Utc>,
    /// How long it took, in milliseconds; absent where nothing was attempted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// HTTP status, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Kind of the failure; where it succeeded, `cached` or `skipped` if nothing was sent for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What failed, without secrets; absent where it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Document {
    /// Parses a stored document. An error holds no value of the row.
    pub(crate) fn parse(body: &str) -> Result<Self, SearchError> {
        serde_json::from_str(body).map_err(|error| {
            SearchError::Response(format!(
                "a stored document is damaged, line {} column {}",
                error.line(),
                error.column()
            ))
        })
    }

    /// Returns whether some delivery is not over.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        let deliveries = self.observers.iter().flat_map(|one| &one.deliveries);
        deliveries.into_iter().any(|one| !one.state.is_final())
    }

    /// Adds what another document of the same event knows. Returns whether that changed anything.
    ///
    /// A merge is commutative, associative and idempotent, and only adds: so documents may be written
    /// again, late, and by several processes, and what is stored never goes back. Of the event itself,
    /// which never changes, what is stored stays.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for theirs in &other.observers {
            let found = self
                .observers
                .binary_search_by(|own| own.observer.cmp(&theirs.observer));
            match found {
                Ok(place) => changed |= self.observers[place].merge(theirs),
                Err(place) => {
                    self.observers.insert(place, theirs.clone());
                    changed = true;
                }
            }
        }
        changed
    }

    /// Sorts entries as a merge needs them.
    pub fn sort(&mut self) {
        self.observers.sort_by(|a, b| a.observer.cmp(&b.observer));
        for one in &mut self.observers {
            one.deliveries.sort_by(|a, b| a.name().cmp(&b.name()));
        }
    }
}

impl ObserverEntry {
    fn merge(&mut self, theirs: &Self) -> bool {
        let mut changed = merge_deliveries(&mut self.deliveries, &theirs.deliveries);
        // A delivery shows that it matched, whatever the observer is now.
        let not_matched = if self.deliveries.is_empty() {
            self.not_matched.clone().max(theirs.not_matched.clone())
        } else {
            None
        };
        changed |= self.not_matched != not_matched;
        self.not_matched = not_matched;
        changed
    }
}

/// Merges deliveries of one observer, sorted by name. Returns whether that changed any.
pub fn merge_deliveries(own: &mut Vec<DeliveryEntry>, theirs: &[DeliveryEntry]) -> bool {
    let mut changed = false;
    for their in theirs {
        match own.binary_search_by(|one| one.name().cmp(&their.name())) {
            Ok(place) => changed |= own[place].merge(their),
            Err(place) => {
                own.insert(place, their.clone());
                changed = true;
            }
        }
    }
    changed
}

impl DeliveryEntry {
    fn name(&self) -> (&str, Option<&str>) {
        (&self.action, self.replay.as_deref())
    }

    /// Merges the entry with another one of the same delivery; returns whether that changed it. The one that
    /// is further stays, with the higher number of attempts and the later list of them.
    fn merge(&mut self, their: &Self) -> bool {
        let attempts = self.attempts.max(their.attempts);
        let is_later = self.listed() < their.listed();
        let mut merged = if self.progress() < their.progress() {
            their.clone()
        } else {
            self.clone()
        };
        merged.attempts = attempts;
        let listed = if is_later { their } else { &*self };
        merged.history.clone_from(&listed.history);
        let changed = merged != *self;
        *self = merged;
        changed
    }

    /// How far it is. Nothing follows a delivery, so what was reported of it before it ended is no news,
    /// even if the end was found out elsewhere, without the number of attempts. Before its end, and where
    /// a dead letter may be redriven, attempts are counted through, so an entry with more is the later one.
    fn progress(&self) -> impl Ord {
        let is_over = matches!(
            self.state,
            DeliveryState::Completed | DeliveryState::Dropped | DeliveryState::Delivered
        );
        (
            is_over,
            if is_over { 0 } else { self.attempts },
            self.state,
            !self.details_lost,
            self.dead_letter,
            self.job.clone(),
            self.due_at,
        )
    }

    /// How late its list of attempts is. Nothing follows a success, so of two that end at once, that one is
    /// the later.
    fn listed(&self) -> impl Ord {
        let last = self.history.last();
        let last = last.map(|last| (last.at, last.error.is_none()));
        (last, self.history.len(), &self.history)
    }
}
