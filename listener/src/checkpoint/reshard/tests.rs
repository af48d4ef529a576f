//! Shards that read, complete deliveries in any order, and are resharded at any moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::capture::position::Window;
use crate::capture::reader::shard_of;
use crate::delivery::ActionName;
use crate::dispatch::ledger::{self, EventRef, Ledger};

/// Events that are read at a time.
const PAGE: usize = 2;

/// The key of an event, and its number of actions.
type TestEvent = (u32, usize);

/// Each transaction commits between two bounds, and is a window of its own.
fn bound(windows: usize) -> LogBound {
    let xid = 10 + windows;
    LogBound {
        low_id: 0,
        snapshot: format!("{xid}:{xid}:").parse().unwrap(),
        high_id: 0,
    }
}

fn action(n: usize) -> ActionName {
    ActionName::new("ns/observer", format!("action-{n}"))
}

struct SimListener {
    /// What the log holds, by windows.
    log: Vec<Vec<(i64, TestEvent)>>,
    shards: u16,
    ledger: Ledger,
    saved: BTreeMap<u16, Progress>,
    /// Windows that each shard has read, and the id up to which it has read in the next one.
    read: BTreeMap<u16, (usize, i64)>,
    /// Number of the page that was read last.
    page: u64,
    /// The furthest window that was ever read.
    furthest: usize,
    open: Vec<(EventRef, usize)>,
    completed: BTreeSet<(i64, usize)>,
}

impl SimListener {
    fn new(log: Vec<Vec<TestEvent>>, shards: u16) -> Self {
        let mut ids = 1..;
        let log = log.into_iter();
        let mut listener = Self {
            log: log
                .map(|window| ids.by_ref().zip(window).collect())
                .collect(),
            shards,
            ledger: Ledger::default(),
            saved: (0..shards)
                .map(|shard| (shard, new_shard(&bound(0))))
                .collect(),
            read: BTreeMap::new(),
            page: 0,
            furthest: 0,
            open: Vec::new(),
            completed: BTreeSet::new(),
        };
        listener.restart();
        listener
    }

    /// Restarts from what was saved.
    fn restart(&mut self) {
        self.ledger = Ledger::default();
        self.open.clear();
        self.read.clear();
        for (shard, progress) in &self.saved {
            let from = &progress.position.from.snapshot;
            let windows = usize::try_from(from.xmax()).unwrap() - 10;
            self.read
                .insert(*shard, (windows, progress.position.last_id));
            self.ledger.add_shard(*shard, progress.clone());
        }
    }

    fn save(&mut self) {
        self.saved.extend(self.ledger.take_progress());
    }

    /// Reads a page for a shard. Returns whether there was one.
    fn read(&mut self, shard: u16) -> bool {
        let (windows, after) = self.read[&shard];
        let Some(events) = self.log.get(windows) else {
            return false;
        };
        let window = Window {
            from: Arc::new(bound(windows)),
            to: Arc::new(bound(windows + 1)),
        };
        self.page += 1;
        self.furthest = self.furthest.max(windows + 1);
        self.ledger.open_window(shard, self.page, &window);
        let left = events.iter().filter(|(id, _)| *id > after);
        let page: Vec<_> = left.take(PAGE).copied().collect();
        for (id, (hash, count)) in &page {
            if shard_of(*hash, self.shards) != shard {
                continue;
            }
            let event_ref = (shard, self.page, *id);
            let event = ledger::EventOrigin {
                hash: *hash,
                xid: 10 + u64::try_from(windows).unwrap(),
                occurred_at: DateTime::UNIX_EPOCH,
            };
            let actions: Vec<ActionName> = (0..*count).map(action).collect();
            let left = self.ledger.register(event_ref, event, &actions);
            self.open.extend(left.into_iter().map(|n| (event_ref, n)));
        }
        let last = page.last().map(|(id, _)| *id);
        let more = last.filter(|last| events.iter().any(|(id, _)| id > last));
        let (position, read) = match more {
            Some(last) => (Position::within(&window, last), (windows, last)),
            None => (Position::at(window.to), (windows + 1, 0)),
        };
        self.ledger.advance(shard, position, true);
        self.read.insert(shard, read);
        true
    }

    /// Completes a delivery. Returns whether it was not completed before.
    fn complete(&mut self, n: usize) -> bool {
        let (event, n) = self.open.swap_remove(n);
        self.ledger.complete(event, action(n));
        self.completed.insert((event.2, n))
    }

    /// Stops, and continues with another number of shards.
    fn reshard(&mut self, shards: u16) {
        self.save();
        let old = self.saved.iter().map(|(shard, progress)| OldShard {
            shard_count: self.shards,
            shard: *shard,
            epoch: 0,
            progress: progress.clone(),
        });
        let old: Vec<OldShard> = old.collect();
        let now = bound(self.furthest).snapshot;
        let progress = carry_over(&old, &now).unwrap();
        self.shards = shards;
        self.saved = (0..shards).map(|shard| (shard, progress.clone())).collect();
        self.restart();
    }
}

#[derive(Clone, Debug)]
enum ReshardStep {
    Read(u16),
    Complete(prop::sample::Index),
    Save,
    Restart,
    Reshard(u16),
}

fn step() -> impl Strategy<Value = ReshardStep> {
    prop_oneof![
        6 => (0u16..5).prop_map(ReshardStep::Read),
        6 => any::<prop::sample::Index>().prop_map(ReshardStep::Complete),
        2 => Just(ReshardStep::Save),
        1 => Just(ReshardStep::Restart),
        1 => (1u16..5).prop_map(ReshardStep::Reshard),
    ]
}

proptest! {
    /// Whatever the order of reads, completions, restarts and reshardings: each delivery is completed
    /// exactly once.
    #[test]
    fn resharding_repeats_and_omits_nothing(
        log in prop::collection::vec(prop::collection::vec((0u32..12, 0usize..3), 0..5), 1..8),
        shards in 1u16..5,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let count: usize = log.iter().flatten().map(|(_, actions)| actions).sum();
        let mut listener = SimListener::new(log, shards);
        for step in steps {
            match step {
                ReshardStep::Read(shard) => {
                    listener.read(shard % listener.shards);
                }
                ReshardStep::Complete(n) if !listener.open.is_empty() => {
                    let n = n.index(listener.open.len());
                    prop_assert!(listener.complete(n), "done twice");
                }
                ReshardStep::Save => listener.save(),
                ReshardStep::Restart => {
                    listener.save();
                    listener.restart();
                }
                ReshardStep::Reshard(shards) if shards != listener.shards => listener.reshard(shards),
                ReshardStep::Complete(_) | ReshardStep::Reshard(_) => {}
            }
        }
        for shard in 0..listener.shards {
            while listener.read(shard) {
                // As a save between two pages is what forgets.
                listener.save();
            }
        }
        while !listener.open.is_empty() {
            prop_assert!(listener.complete(0), "done twice");
        }
        prop_assert_eq!(listener.completed.len(), count, "all of it is done");
        listener.save();
        for progress in listener.saved.values() {
            prop_assert!(progress.pre_reshard.is_empty(), "no progress from before resharding is left");
        }
    }
}
