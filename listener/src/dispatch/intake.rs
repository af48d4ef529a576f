//! Intake of events: takes them from a batch, matches them, and adds their deliveries to the lanes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::checkpoint_buffer::CheckpointBuffer;
use super::delivery_lanes::DeliveryLanes;
use super::event_span::MatchSpan;
use super::in_flight::InFlightDelivery;
use super::ledger::EventRef;
use super::owned_shard::OwnedShards;
use crate::capture::change_log::ChangeRecord;
use crate::capture::position::Position;
use crate::capture::reader::{Epoch, EventBatch};
use crate::observers::Target;
use crate::telemetry::metrics::Metrics;
use crate::trace::spans::Spans;

/// The events of a batch that are not admitted yet.
#[derive(Debug)]
struct BatchInProgress {
    window: u64,
    events: VecDeque<ChangeRecord>,
    reached: BTreeMap<u16, (Epoch, Position)>,
    found_events: bool,
}

/// The batch that is being consumed, and what is left to read.
#[derive(Debug)]
pub(super) struct Intake {
    batch: Option<BatchInProgress>,
    backlog: u64,
    /// The last window of which something was accepted.
    last_window: Option<u64>,
    /// When the last admitted event was committed, approximately.
    last_read: Option<DateTime<Utc>>,
    metrics: Metrics,
    spans: Spans,
}

impl Intake {
    /// Creates an intake without a batch.
    pub(super) const fn new(metrics: Metrics, spans: Spans) -> Self {
        Self {
            batch: None,
            backlog: 0,
            last_window: None,
            last_read: None,
            metrics,
            spans,
        }
    }

    /// Returns whether the batch is consumed, so that another one can be accepted.
    pub(super) const fn is_empty(&self) -> bool {
        self.batch.is_none()
    }

    /// Accepts a batch, and opens its window for the shards that it was read for.
    pub(super) fn accept(
        &mut self,
        batch: EventBatch,
        shards: &OwnedShards,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let mut reached = BTreeMap::new();
        for (shard, epoch, position) in batch.reached {
            // What was read for an earlier claim is of no use for this one.
            if shards.active_epoch(shard) != Some(epoch) {
                continue;
            }
            if let Some(bounds) = &batch.bounds {
                checkpoint.open_window(shard, batch.window, bounds);
            }
            reached.insert(shard, (epoch, position));
        }
        if batch.bounds.is_some() && self.last_window.replace(batch.window) != Some(batch.window) {
            self.metrics.windows.inc();
        }
        self.metrics.record_events(batch.events.len() as u64);
        self.backlog = batch.backlog;
        self.batch = Some(BatchInProgress {
            window: batch.window,
            found_events: !batch.events.is_empty() || batch.bounds.is_none(),
            events: batch.events.into(),
            reached,
        });
    }

    /// Admits events of the batch while there is room for their deliveries.
    pub(super) fn consume_batch(
        &mut self,
        shards: &OwnedShards,
        lanes: &mut DeliveryLanes,
        checkpoint: &mut CheckpointBuffer,
    ) {
        while self.batch.is_some() && checkpoint.has_room() {
            let Some(batch) = &mut self.batch else {
                return;
            };
            if let Some(record) = batch.events.pop_front() {
                let shard = shards.shard_of(record.event.hash);
                let event_ref = (shard, batch.window, record.event.log_id);
                let read_under = batch.reached.get(&shard).map(|(epoch, _)| *epoch);
                if let Some(epoch) = read_under.filter(|it| shards.active_epoch(shard) == Some(*it))
                {
                    self.admit_event(record, event_ref, epoch, lanes, checkpoint);
                }
            } else if let Some(consumed) = self.batch.take() {
                for (shard, (epoch, position)) in consumed.reached {
                    if shards.active_epoch(shard) == Some(epoch) {
                        checkpoint.advance(shard, position, consumed.found_events);
                    }
                }
            }
        }
    }

    /// Matches an event, registers it, and adds its deliveries to their lanes.
    fn admit_event(
        &mut self,
        record: ChangeRecord,
        event_ref: EventRef,
        epoch: Epoch,
        lanes: &mut DeliveryLanes,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let matching = MatchSpan::begin(&self.spans, &record.event);
        let (called, matched) = lanes.targets().match_event(&record);
        for observer in &matched {
            let counter = self.metrics.matches.with_label_values(&[&***observer]);
            counter.inc();
        }
        let failed = called.failed.iter().map(|(target, _)| *target);
        let targets: Vec<Target> = called.run.iter().copied().chain(failed).collect();
        let names: Vec<_> = targets
            .iter()
            .filter_map(|target| lanes.targets().target(*target))
            .map(|known| known.name.clone())
            .collect();
        self.last_read = Some(record.event.occurred_at);
        let pending = checkpoint.register(event_ref, &record, &names);
        if pending.is_empty() {
            return;
        }
        let event = Arc::new(record.event);
        let owner = (event_ref.0, epoch);
        let span = matching.map(|span| {
            span.end(
                &event,
                names.iter().map(|name| &name.observer),
                pending.len(),
            )
        });
        for n in pending {
            let mut delivery =
                InFlightDelivery::new(Arc::clone(&event), event_ref, owner, Instant::now());
            delivery.span.clone_from(&span);
            let failure = n.checked_sub(called.run.len());
            if let Some((target, failure)) = failure.and_then(|n| called.failed.get(n)) {
                delivery.record_failure(failure, None);
                lanes.give_up(*target, delivery, checkpoint);
            } else {
                lanes.admit(targets[n], delivery, checkpoint);
            }
        }
    }

    /// Returns an upper bound of the events that are still to be read.
    pub(super) const fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Forgets the backlog, when no shard is owned.
    pub(super) const fn clear_backlog(&mut self) {
        self.backlog = 0;
    }

    /// Returns whether events are to be read or to be admitted.
    pub(super) const fn has_more(&self) -> bool {
        self.backlog > 0 || self.batch.is_some()
    }

    /// Returns when the last admitted event was committed, if there is a backlog.
    pub(super) fn backlog_since(&self) -> Option<DateTime<Utc>> {
        self.last_read.filter(|_| self.backlog > 0)
    }
}
