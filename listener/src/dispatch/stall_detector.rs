//! Stall detection: which shards have pending work without any progress, and why.

use crate::delivery::ActionName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use crds::pod_status::{
    BLOCKED_BY_TRANSACTION, CONCURRENCY_LIMIT_REACHED, DATABASE_UNREACHABLE, ENDPOINT_FAILING,
    StalledShard,
};
use tokio::time::Instant;

use super::delivery_lanes::DeliveryLanes;
use super::ledger::Ledger;
use super::owned_shard::OwnedShards;
use crate::circuit_breaker::CircuitState;
use crate::telemetry::health::Health;

/// Since when each shard has had pending work without progress.
#[derive(Debug)]
pub(super) struct StallDetector {
    shards: BTreeMap<u16, NoProgress>,
    stalled_after: Duration,
    health: Arc<Health>,
}

#[derive(Clone, Copy, Debug)]
struct NoProgress {
    since: Instant,
    /// The shard's progress at that time.
    progress: u64,
}

impl StallDetector {
    /// Creates a detector of shards that make no progress for `stalled_after`.
    pub(super) const fn new(stalled_after: Duration, health: Arc<Health>) -> Self {
        Self {
            shards: BTreeMap::new(),
            stalled_after,
            health,
        }
    }

    /// Returns the stalled shards with their causes. `has_unread` is whether events are to be read.
    pub(super) fn check(
        &mut self,
        ledger: &Ledger,
        lanes: &DeliveryLanes,
        shards: &OwnedShards,
        has_unread: bool,
    ) -> Vec<StalledShard> {
        let progress = ledger.progress();
        let progress = progress.map(|(shard, done, pending)| (shard, done, pending || has_unread));
        let stalled = self.record(progress, Instant::now());
        let now = Utc::now();
        let describe = |(shard, lasts): (u16, Duration)| {
            let (reason, message) = self.cause(shard, lasts, ledger, lanes, shards);
            StalledShard {
                shard,
                reason: reason.to_owned(),
                message,
                since: (now - lasts).to_rfc3339_opts(SecondsFormat::Secs, true),
            }
        };
        stalled.into_iter().map(describe).collect()
    }

    /// Records the progress of each shard and whether it has pending work. Returns those that have had
    /// some for too long without progress, and for how long.
    fn record(
        &mut self,
        shards: impl Iterator<Item = (u16, u64, bool)>,
        now: Instant,
    ) -> Vec<(u16, Duration)> {
        let mut recorded = BTreeMap::new();
        let mut stalled = Vec::new();
        for (shard, progress, has_pending) in shards {
            let before = self.shards.get(&shard);
            let before = before.filter(|before| has_pending && before.progress == progress);
            let since = before.map_or(now, |before| before.since);
            let lasts = now.saturating_duration_since(since);
            if has_pending && lasts >= self.stalled_after {
                stalled.push((shard, lasts));
            }
            recorded.insert(shard, NoProgress { since, progress });
        }
        self.shards = recorded;
        stalled
    }

    /// Returns reason and message of a stall. They stay the same while the cause does.
    fn cause(
        &self,
        shard: u16,
        lasts: Duration,
        ledger: &Ledger,
        lanes: &DeliveryLanes,
        shards: &OwnedShards,
    ) -> (&'static str, String) {
        if let Some(blocked) = self.health.blocked() {
            return (BLOCKED_BY_TRANSACTION, blocked);
        }
        let away = self.health.database_outage(Instant::now());
        if away.is_some_and(|away| away * 2 > lasts) {
            let message = "the database does not respond; delivery continues once it does";
            return (DATABASE_UNREACHABLE, message.to_owned());
        }
        pending_delivery(shard, ledger, lanes)
            .or_else(|| pending_job(shard, lanes, shards))
            .unwrap_or_else(|| {
                let message = "events wait and there is no room to take them in; see the stalled shards beside \
                               this one for what takes the room";
                (CONCURRENCY_LIMIT_REACHED, message.to_owned())
            })
    }
}

/// Returns why the oldest pending delivery of a shard is not completed, if it was attempted.
fn pending_delivery(
    shard: u16,
    ledger: &Ledger,
    lanes: &DeliveryLanes,
) -> Option<(&'static str, String)> {
    let event_ref = ledger.first_pending(shard)?;
    let (lane, delivery) = lanes
        .lanes()
        .find_head(|delivery| delivery.event_ref == event_ref)?;
    let ActionName { observer, action } = &lanes.targets().target(lane.0)?.name;
    let event = &delivery.event.id;
    let message = match delivery.history.last() {
        Some(last) => format!(
            "event {event} waits for action {action} of observer {observer}: {}. Fix the endpoint, or remove the action",
            last.error
        ),
        None if delivery.attempts > 0 => format!(
            "event {event} waits for the response of the endpoint of action {action} of observer {observer}. Fix the \
             endpoint, or give the action a shorter timeout"
        ),
        None => return None,
    };
    Some((ENDPOINT_FAILING, message))
}

/// Returns why the oldest job of a shard is not completed, if it has one.
fn pending_job(
    shard: u16,
    lanes: &DeliveryLanes,
    shards: &OwnedShards,
) -> Option<(&'static str, String)> {
    let heads = lanes.queued().iter();
    let heads = heads.filter(|(lane, _)| shards.shard_of(lane.1) == shard);
    let heads = heads.filter_map(|(lane, head)| Some((lane, head?)));
    let (lane, head) = heads.min_by_key(|(_, head)| head.log_id)?;
    let compiled = lanes.targets().target(lane.0)?;
    let ActionName { observer, action } = &compiled.name;
    let standing = compiled.action.endpoint_status();
    let open = standing.filter(|it| it.circuit != CircuitState::Closed);
    let error = open.and_then(|it| it.why);
    let why = match error.as_ref().or(head.error.as_ref()) {
        Some(error) => format!("{error}. Fix the endpoint, or remove the action"),
        None => format!(
            "its job waits to be claimed after {} attempts",
            head.attempts
        ),
    };
    let event = &head.event_id;
    let message = format!("event {event} waits for action {action} of observer {observer}: {why}");
    Some((ENDPOINT_FAILING, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_is_stalled_while_pending_work_makes_no_progress() {
        let start = Instant::now();
        let mut detector = StallDetector::new(Duration::from_secs(10), Arc::default());
        let mut record = |second, progress, has_pending| {
            let now = start + Duration::from_secs(second);
            let stalled = detector.record([(3, progress, has_pending)].into_iter(), now);
            stalled.first().map(|(_, lasts)| lasts.as_secs())
        };
        assert_eq!(record(0, 0, true), None);
        assert_eq!(record(9, 0, true), None);
        assert_eq!(record(11, 0, true), Some(11));
        assert_eq!(record(12, 1, true), None, "there was progress");
        assert_eq!(record(20, 1, true), None);
        assert_eq!(record(21, 1, false), None, "nothing is pending");
        assert_eq!(record(30, 1, true), None);
        assert_eq!(record(31, 1, true), Some(10));
    }
}
