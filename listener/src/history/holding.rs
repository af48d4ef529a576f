//! What the indexer has in memory: documents of events that wait for reports or for being written, and
//! reports that wait for their events. It is bounded, in number and in bytes.
//!
//! Most deliveries end soon after their event is read, and are reported then. So an event that was read is
//! held for a moment for the reports of its deliveries, and most documents are written once. What is
//! reported later is written later, and merged.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use search::Document;
use tokio::time::Instant;

use super::compose::{self, Composer};
use crate::capture::position::Position;
use crate::capture::reader::{Epoch, EventBatch, shard_of};
use crate::delivery::event::Event;
use crate::delivery::report::DeliveryReport;
use crate::observers::Observers;

/// For how long an event is held for the reports of its deliveries, and a report for its event.
const HOLD: Duration = Duration::from_millis(200);

/// Maximum number of documents and of events with reports; one batch more may be accepted.
const MAX_DOCUMENTS: usize = 8192;

/// Maximum bytes of them; one batch more may be accepted.
const MAX_BYTES: u64 = 32 << 20;

/// Bytes that a document counts beyond its event's, and beyond them each observer and each delivery.
const SHARE: u64 = 256;

/// A position of a shard that is owned under an epoch.
pub type ShardPosition = (u16, Epoch, Position);

/// Names an event for as long as it is held: its number in the log, and when it occurred.
type HeldId = (i64, DateTime<Utc>);

/// Where a document's event was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFrom {
    /// The batch that it was part of.
    batch: u64,
    /// Its hash and the transaction that wrote it.
    pub origin: (u32, u64),
}

/// What is known of a document in memory, beside its text.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// Where its event was read; nothing if the document is of reports.
    pub read: Option<ReadFrom>,
    bytes: u64,
}

impl Receipt {
    /// Returns the bytes that its document counts in memory.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A document to be written.
#[derive(Debug)]
pub struct Outgoing {
    /// The document.
    pub document: Document,
    /// What [`Holding::written`] is to be told.
    pub receipt: Receipt,
}

/// The events and positions of a batch that was read.
#[derive(Debug)]
struct OpenBatch {
    /// Documents that are not written yet.
    left: usize,
    oldest: Option<DateTime<Utc>>,
    reached: Vec<ShardPosition>,
}

/// Reports of an event that is not held.
#[derive(Debug)]
struct Late {
    event: Arc<Event>,
    reports: Vec<DeliveryReport>,
    bytes: u64,
}

/// Documents and reports in memory.
#[derive(Debug)]
pub struct Holding {
    composer: Composer,
    shards: u16,
    /// Documents that wait for reports, and their events in the order in which they were read.
    held: HashMap<HeldId, Outgoing>,
    held_order: VecDeque<(Instant, HeldId)>,
    /// Reports that wait for their events, and these in the order in which they were reported.
    late: HashMap<HeldId, Late>,
    late_order: VecDeque<(Instant, HeldId)>,
    ready: VecDeque<Outgoing>,
    batches: BTreeMap<u64, OpenBatch>,
    next_batch: u64,
    /// Positions up to which all is written since they were taken last.
    reached: BTreeMap<u16, (Epoch, Position)>,
    documents: usize,
    bytes: u64,
}

impl Holding {
    /// Holds nothing yet, for a listener with so many shards.
    #[must_use]
    pub fn new(composer: Composer, shards: u16) -> Self {
        Self {
            composer,
            shards,
            held: HashMap::new(),
            held_order: VecDeque::new(),
            late: HashMap::new(),
            late_order: VecDeque::new(),
            ready: VecDeque::new(),
            batches: BTreeMap::new(),
            next_batch: 0,
            reached: BTreeMap::new(),
            documents: 0,
            bytes: 0,
        }
    }

    /// Returns whether more may be accepted.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.documents < MAX_DOCUMENTS && self.bytes < MAX_BYTES
    }

    /// Returns for how many more documents there is room.
    #[must_use]
    pub const fn room(&self) -> usize {
        if self.has_room() {
            MAX_DOCUMENTS - self.documents
        } else {
            0
        }
    }

    /// Returns the number of documents in memory, those that are being written too, and their bytes.
    #[must_use]
    pub const fn size(&self) -> (usize, u64) {
        (self.documents, self.bytes)
    }

    /// Returns when the oldest event occurred that was read and has no document yet.
    #[must_use]
    pub fn oldest(&self) -> Option<DateTime<Utc>> {
        self.batches.values().filter_map(|batch| batch.oldest).min()
    }

    /// Accepts a batch that was read.
    pub fn accept(&mut self, batch: EventBatch, observers: &Observers, now: Instant) {
        let number = self.next_batch;
        self.next_batch += 1;
        let mut open = OpenBatch {
            left: 0,
            oldest: None,
            reached: batch.reached,
        };
        for record in &batch.events {
            let event = &record.event;
            let shard = shard_of(event.hash, self.shards);
            // What the reader read for a shard that it no longer reads for is not of this batch.
            if open.reached.iter().all(|(reached, ..)| *reached != shard) {
                continue;
            }
            let id = (event.log_id, event.occurred_at);
            let mut document = self.composer.read(record, observers);
            self.apply_late(id, &mut document);
            let receipt = Receipt {
                bytes: weight(&document, event.bytes()),
                read: Some(ReadFrom {
                    batch: number,
                    origin: (event.hash, record.xid),
                }),
            };
            self.documents += 1;
            self.bytes += receipt.bytes;
            let outgoing = Outgoing { document, receipt };
            open.left += 1;
            let oldest = open
                .oldest
                .map_or(event.occurred_at, |oldest| oldest.min(event.occurred_at));
            open.oldest = Some(oldest);
            if outgoing.document.is_unfinished() {
                self.held_order.push_back((now, id));
                // The same event may be read again, as after a change of hands.
                let before = self.held.insert(id, outgoing);
                self.ready.extend(before);
            } else {
                self.ready.push_back(outgoing);
            }
        }
        self.batches.insert(number, open);
        self.pass_batches();
    }

    /// Adds the reports that came before their event.
    fn apply_late(&mut self, id: HeldId, document: &mut Document) {
        if let Some(late) = self.late.remove(&id) {
            self.documents = self.documents.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(late.bytes);
            for report in &late.reports {
                compose::apply(document, report);
            }
        }
    }

    /// Accepts a report.
    pub fn report(&mut self, report: DeliveryReport, now: Instant) {
        let id = (report.event.log_id, report.event.occurred_at);
        if let Some(held) = self.held.get_mut(&id) {
            compose::apply(&mut held.document, &report);
            if !held.document.is_unfinished() {
                self.ready.extend(self.held.remove(&id));
            }
            return;
        }
        if let Some(late) = self.late.get_mut(&id) {
            late.bytes += SHARE;
            self.bytes += SHARE;
            late.reports.push(report);
            return;
        }
        let bytes = report.event.bytes() + 2 * SHARE;
        let late = Late {
            event: Arc::clone(&report.event),
            reports: vec![report],
            bytes,
        };
        self.documents += 1;
        self.bytes += bytes;
        self.late_order.push_back((now, id));
        self.late.insert(id, late);
    }

    /// Takes the documents that are to be written now, up to bounds. `all` takes also those that still
    /// wait for something.
    pub fn take(&mut self, now: Instant, most: usize, most_bytes: u64, all: bool) -> Vec<Outgoing> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let is_due = |since: Instant| all || now.saturating_duration_since(since) >= HOLD;
        while taken.len() < most && bytes < most_bytes {
            // Those that have waited come first, so that what passes them by does not pile up behind.
            let next = if let Some((_, id)) =
                self.held_order.pop_front_if(|(since, _)| is_due(*since))
            {
                match self.held.remove(&id) {
                    Some(held) => held,
                    None => continue,
                }
            } else if let Some((_, id)) = self.late_order.pop_front_if(|(since, _)| is_due(*since))
            {
                match self.late.remove(&id) {
                    Some(late) => self.compose_late(&late),
                    None => continue,
                }
            } else if let Some(ready) = self.ready.pop_front() {
                ready
            } else {
                break;
            };
            bytes += next.receipt.bytes;
            taken.push(next);
        }
        taken
    }

    fn compose_late(&self, late: &Late) -> Outgoing {
        let mut document = self.composer.document(&late.event);
        for report in &late.reports {
            compose::apply(&mut document, report);
        }
        let receipt = Receipt {
            read: None,
            bytes: late.bytes,
        };
        Outgoing { document, receipt }
    }

    /// Forgets documents that are written, and passes the batches that are.
    pub fn written(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            self.documents = self.documents.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(receipt.bytes);
            let batch = receipt
                .read
                .and_then(|read| self.batches.get_mut(&read.batch));
            if let Some(batch) = batch {
                batch.left = batch.left.saturating_sub(1);
            }
        }
        self.pass_batches();
    }

    fn pass_batches(&mut self) {
        while let Some(first) = self.batches.first_entry() {
            if first.get().left > 0 {
                break;
            }
            for (shard, epoch, position) in first.remove().reached {
                self.reached.insert(shard, (epoch, position));
            }
        }
    }

    /// Takes the positions up to which all is written, of the shards that moved.
    pub fn take_reached(&mut self) -> Vec<ShardPosition> {
        let reached = std::mem::take(&mut self.reached).into_iter();
        reached
            .map(|(shard, (epoch, position))| (shard, epoch, position))
            .collect()
    }

    /// Takes back positions that could not be saved, except of shards that have moved on since.
    pub fn return_reached(&mut self, positions: Vec<ShardPosition>) {
        for (shard, epoch, position) in positions {
            self.reached.entry(shard).or_insert((epoch, position));
        }
    }
}

/// Returns the bytes that a document counts.
fn weight(document: &Document, event_bytes: u64) -> u64 {
    let observers = document.observers.iter().map(|one| {
        let reason = one.not_matched.as_ref().map_or(0, String::len);
        SHARE + reason as u64 + SHARE * one.deliveries.len() as u64
    });
    SHARE + event_bytes + observers.sum::<u64>()
}

#[cfg(test)]
mod tests;
