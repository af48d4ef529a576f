//! Shards that read, end deliveries in any order, and become more or fewer at any moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::capture::position::Window;
use crate::capture::reader::shard_of;
use crate::delivery::ActionName;
use crate::dispatch::ledger::{self, Ledger, Place};

/// Events that are read at a time.
const PAGE: usize = 2;

/// An event of a key, and how many actions it calls for.
type Called = (u32, usize);

/// Each transaction commits between two marks, and is a window of its own.
fn mark(windows: usize) -> LogBound {
    let xid = 10 + windows;
    LogBound {
        low_id: 0,
        snapshot: format!("{xid}:{xid}:").parse().unwrap(),
        high_id: 0,
    }
}

fn action(n: usize) -> ActionName {
    (Arc::from("ns/observer"), Arc::from(format!("action-{n}")))
}

struct Fleet {
    /// What the log holds, by windows.
    log: Vec<Vec<(i64, Called)>>,
    shards: u16,
    ledger: Ledger,
    saved: BTreeMap<u16, Progress>,
    /// Windows that each shard has read, and the id up to which it has read in the next one.
    read: BTreeMap<u16, (usize, i64)>,
    /// Number of the page that was read last.
    page: u64,
    /// The furthest window that was ever read.
    furthest: usize,
    open: Vec<(Place, usize)>,
    over: BTreeSet<(i64, usize)>,
}

impl Fleet {
    fn new(log: Vec<Vec<Called>>, shards: u16) -> Self {
        let mut ids = 1..;
        let log = log.into_iter();
        let mut fleet = Self {
            log: log
                .map(|window| ids.by_ref().zip(window).collect())
                .collect(),
            shards,
            ledger: Ledger::default(),
            saved: (0..shards).map(|shard| (shard, at(&mark(0)))).collect(),
            read: BTreeMap::new(),
            page: 0,
            furthest: 0,
            open: Vec::new(),
            over: BTreeSet::new(),
        };
        fleet.begin();
        fleet
    }

    /// Begins anew from what was saved.
    fn begin(&mut self) {
        self.ledger = Ledger::default();
        self.open.clear();
        self.read.clear();
        for (shard, progress) in &self.saved {
            let from = &progress.position.from.snapshot;
            let windows = usize::try_from(from.xmax()).unwrap() - 10;
            self.read
                .insert(*shard, (windows, progress.position.last_id));
            self.ledger.add(*shard, progress.clone());
        }
    }

    fn save(&mut self) {
        self.saved.extend(self.ledger.take());
    }

    /// Reads a page for a shard. Whether there was one.
    fn read(&mut self, shard: u16) -> bool {
        let (windows, after) = self.read[&shard];
        let Some(events) = self.log.get(windows) else {
            return false;
        };
        let window = Window {
            from: Arc::new(mark(windows)),
            to: Arc::new(mark(windows + 1)),
        };
        self.page += 1;
        self.furthest = self.furthest.max(windows + 1);
        self.ledger.open(shard, self.page, &window);
        let left = events.iter().filter(|(id, _)| *id > after);
        let page: Vec<_> = left.take(PAGE).copied().collect();
        for (id, (hash, count)) in &page {
            if shard_of(*hash, self.shards) != shard {
                continue;
            }
            let place = (shard, self.page, *id);
            let event = ledger::Mark {
                hash: *hash,
                xid: 10 + u64::try_from(windows).unwrap(),
                since: DateTime::UNIX_EPOCH,
            };
            let actions: Vec<ActionName> = (0..*count).map(action).collect();
            let left = self.ledger.enter(place, event, &actions);
            self.open.extend(left.into_iter().map(|n| (place, n)));
        }
        let last = page.last().map(|(id, _)| *id);
        let more = last.filter(|last| events.iter().any(|(id, _)| id > last));
        let (position, read) = match more {
            Some(last) => (Position::within(&window, last), (windows, last)),
            None => (Position::at(window.to), (windows + 1, 0)),
        };
        self.ledger.reach(shard, position, true);
        self.read.insert(shard, read);
        true
    }

    /// Ends a delivery that is under way. Whether it was not done before.
    fn end(&mut self, n: usize) -> bool {
        let (place, n) = self.open.swap_remove(n);
        self.ledger.done(place, action(n));
        self.over.insert((place.2, n))
    }

    /// Stops, and goes on with another number of shards.
    fn lay_out(&mut self, shards: u16) {
        self.save();
        let old = self.saved.iter().map(|(shard, progress)| Old {
            of: self.shards,
            shard: *shard,
            epoch: 0,
            progress: progress.clone(),
        });
        let old: Vec<Old> = old.collect();
        let now = mark(self.furthest).snapshot;
        let progress = inherit(&old, &now).unwrap();
        self.shards = shards;
        self.saved = (0..shards).map(|shard| (shard, progress.clone())).collect();
        self.begin();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u16),
    End(prop::sample::Index),
    Save,
    Restart,
    LayOut(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..5).prop_map(Step::Read),
        6 => any::<prop::sample::Index>().prop_map(Step::End),
        2 => Just(Step::Save),
        1 => Just(Step::Restart),
        1 => (1u16..5).prop_map(Step::LayOut),
    ]
}

proptest! {
    /// Whoever was asked to stop, and however many shards there are then: what is left to be done
    /// is done, and once.
    #[test]
    fn another_number_of_shards_repeats_and_omits_nothing(
        log in prop::collection::vec(prop::collection::vec((0u32..12, 0usize..3), 0..5), 1..8),
        shards in 1u16..5,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let count: usize = log.iter().flatten().map(|(_, actions)| actions).sum();
        let mut fleet = Fleet::new(log, shards);
        for step in steps {
            match step {
                Step::Read(shard) => {
                    fleet.read(shard % fleet.shards);
                }
                Step::End(n) if !fleet.open.is_empty() => {
                    let n = n.index(fleet.open.len());
                    prop_assert!(fleet.end(n), "done twice");
                }
                Step::Save => fleet.save(),
                Step::Restart => {
                    fleet.save();
                    fleet.begin();
                }
                Step::LayOut(shards) if shards != fleet.shards => fleet.lay_out(shards),
                Step::End(_) | Step::LayOut(_) => {}
            }
        }
        for shard in 0..fleet.shards {
            while fleet.read(shard) {
                // As a save between two pages is what forgets.
                fleet.save();
            }
        }
        while !fleet.open.is_empty() {
            prop_assert!(fleet.end(0), "done twice");
        }
        prop_assert_eq!(fleet.over.len(), count, "all of it is done");
        fleet.save();
        for progress in fleet.saved.values() {
            prop_assert!(progress.inherited.is_empty(), "nothing is left to be known of others");
        }
    }
}
