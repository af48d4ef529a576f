//! Lanes that have jobs in the queue, behind which their deliveries must wait.
//!
//! Only the owner of a shard adds jobs to its lanes, so a lane that the queue reports as empty, with
//! no unsaved jobs, stays empty until its owner adds some. A target with too many such lanes to track
//! is *overflowed*: all of its deliveries become jobs, also in lanes without any, and the queue keeps
//! them in order.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use queue::LaneHead;

use crate::observers::{LaneId, Target};

/// Maximum number of lanes with jobs that are tracked of one target.
pub(crate) const MAX_LANES: usize = 4096;

/// A lane that has jobs.
#[derive(Debug, Default)]
struct QueuedLane {
    /// Jobs that are not committed yet.
    unsaved: usize,
    /// The stamp of the last job added, to discard older responses.
    added: u64,
    /// Its first job in the last response.
    head: Option<LaneHead>,
}

/// A target with too many lanes to track.
#[derive(Debug, Default)]
struct OverflowedTarget {
    /// Jobs that are not committed yet, by key.
    unsaved: HashMap<u32, usize>,
    /// Keys of jobs added since its lanes were queried; `None` if they were not.
    added_since_listing: Option<HashSet<u32>>,
}

/// A query for the head of a lane, with the stamp of the last job added at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneQuery {
    pub(crate) lane: LaneId,
    added: u64,
}

/// The lanes that have jobs in the queue, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct QueuedLanes {
    lanes: HashMap<LaneId, QueuedLane>,
    /// The number of them per target.
    counts: HashMap<Target, usize>,
    overflowed: BTreeMap<Target, OverflowedTarget>,
    /// Lanes in the order in which they are queried.
    query_order: VecDeque<LaneId>,
    /// Grows with each job and each lane.
    stamp: u64,
}

impl QueuedLanes {
    /// Returns whether a lane has jobs.
    pub(crate) fn contains(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Returns whether a target has too many lanes to track, so that all its deliveries become jobs.
    pub(crate) fn is_overflowed(&self, target: Target) -> bool {
        self.overflowed.contains_key(&target)
    }

    /// Returns whether a target has jobs.
    pub(crate) fn has_jobs(&self, target: Target) -> bool {
        self.is_overflowed(target) || self.counts.get(&target).is_some_and(|count| *count > 0)
    }

    /// Adds a lane that the queue reported with jobs. Returns whether its target has overflowed now.
    pub(crate) fn insert(&mut self, lane: LaneId) -> bool {
        if self.is_overflowed(lane.0) {
            return false;
        }
        self.entry(lane);
        self.overflow_if_full(lane.0)
    }

    /// Records that a job of a lane is about to be committed. Returns whether its target has overflowed
    /// now.
    pub(crate) fn job_added(&mut self, lane: LaneId) -> bool {
        if let Some(overflowed) = self.overflowed.get_mut(&lane.0) {
            *overflowed.unsaved.entry(lane.1).or_default() += 1;
            if let Some(added_since_listing) = &mut overflowed.added_since_listing {
                added_since_listing.insert(lane.1);
            }
            return false;
        }
        self.stamp += 1;
        let stamp = self.stamp;
        let entry = self.entry(lane);
        entry.unsaved += 1;
        entry.added = stamp;
        self.overflow_if_full(lane.0)
    }

    /// Records that a job of a lane is committed.
    pub(crate) fn job_saved(&mut self, lane: LaneId) {
        if let Some(overflowed) = self.overflowed.get_mut(&lane.0) {
            if let Some(count) = overflowed.unsaved.get_mut(&lane.1) {
                *count -= 1;
                if *count == 0 {
                    overflowed.unsaved.remove(&lane.1);
                }
            }
        } else if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.unsaved = lane.unsaved.saturating_sub(1);
        }
    }

    /// Marks a target as overflowed, until a listing of its lanes is short enough.
    pub(crate) fn overflow(&mut self, target: Target) {
        let mut overflowed = self.overflowed.remove(&target).unwrap_or_default();
        self.lanes.retain(|(of, key), lane| {
            if *of == target && lane.unsaved > 0 {
                overflowed.unsaved.insert(*key, lane.unsaved);
            }
            *of != target
        });
        self.counts.remove(&target);
        // A listing from before is incomplete.
        overflowed.added_since_listing = None;
        self.overflowed.insert(target, overflowed);
    }

    /// Removes a target.
    pub(crate) fn remove_target(&mut self, target: Target) {
        self.lanes.retain(|(of, _), _| *of != target);
        self.counts.remove(&target);
        self.overflowed.remove(&target);
    }

    /// Removes the lanes of some keys.
    pub(crate) fn remove_lanes(&mut self, is_gone: impl Fn(u32) -> bool) {
        let counts = &mut self.counts;
        self.lanes.retain(|(target, key), _| {
            let stays = !is_gone(*key);
            if let (false, Some(count)) = (stays, counts.get_mut(target)) {
                *count -= 1;
            }
            stays
        });
        for overflowed in self.overflowed.values_mut() {
            overflowed.unsaved.retain(|key, _| !is_gone(*key));
        }
    }

    /// Discards the listing that is under way: it does not cover a shard that was added.
    pub(crate) fn shards_changed(&mut self) {
        for overflowed in self.overflowed.values_mut() {
            overflowed.added_since_listing = None;
        }
    }

    /// Returns the next queries, at most `most`, round-robin; of the next [`MAX_LANES`] lanes, first
    /// those for which `is_urgent` holds.
    pub(crate) fn next_queries(
        &mut self,
        most: usize,
        is_urgent: impl Fn(LaneId) -> bool,
    ) -> Vec<LaneQuery> {
        let next = self.query_order.len().min(MAX_LANES);
        let mut seen = HashSet::new();
        let next: Vec<LaneId> = self.query_order.drain(..next).collect();
        let (urgent, others): (Vec<LaneId>, Vec<LaneId>) = next
            .into_iter()
            .filter(|lane| self.lanes.contains_key(lane) && seen.insert(*lane))
            .partition(|lane| is_urgent(*lane));
        let (mut queries, mut left) = (Vec::new(), Vec::new());
        for lane in urgent.into_iter().chain(others) {
            match self.lanes.get(&lane) {
                Some(state) if queries.len() < most && state.unsaved == 0 => {
                    queries.push(LaneQuery {
                        lane,
                        added: state.added,
                    });
                }
                _ => left.push(lane),
            }
        }
        for lane in left.into_iter().rev() {
            self.query_order.push_front(lane);
        }
        self.query_order
            .extend(queries.iter().map(|query| query.lane));
        queries
    }

    /// Applies a response about a lane. Returns whether the lane has no jobs now, and whether it has
    /// made progress since the last response.
    pub(super) fn apply_response(
        &mut self,
        query: LaneQuery,
        head: Option<LaneHead>,
    ) -> (bool, bool) {
        let Some(lane) = self.lanes.get_mut(&query.lane) else {
            return (false, false);
        };
        if let Some(head) = head {
            let before = lane.head.as_ref().map(|head| head.log_id);
            let progressed = before.is_some_and(|before| before != head.log_id);
            lane.head = Some(head);
            return (false, progressed);
        }
        if lane.unsaved > 0 || lane.added != query.added {
            return (false, true);
        }
        self.lanes.remove(&query.lane);
        if let Some(count) = self.counts.get_mut(&query.lane.0) {
            *count -= 1;
        }
        (true, true)
    }

    /// Begins a listing of the lanes of overflowed targets. Returns whether there is one to make.
    pub(crate) fn begin_listing(&mut self) -> bool {
        for overflowed in self.overflowed.values_mut() {
            overflowed.added_since_listing = Some(overflowed.unsaved.keys().copied().collect());
        }
        !self.overflowed.is_empty()
    }

    /// Applies a listing of a target's lanes, made after it was begun. Returns the lanes to track, if
    /// they are few enough.
    pub(crate) fn apply_listing(&mut self, target: Target, keys: Option<&[u32]>) -> Vec<LaneId> {
        let Some(keys) = keys else {
            return Vec::new();
        };
        let Some(overflowed) = self.overflowed.get_mut(&target) else {
            return Vec::new();
        };
        let Some(mut all) = overflowed.added_since_listing.take() else {
            return Vec::new();
        };
        all.extend(keys);
        // Well below the maximum, so that it does not overflow again at once.
        if all.len() > MAX_LANES / 2 {
            return Vec::new();
        }
        let unsaved = std::mem::take(&mut overflowed.unsaved);
        self.overflowed.remove(&target);
        let lanes: Vec<LaneId> = all.into_iter().map(|key| (target, key)).collect();
        for lane in &lanes {
            self.entry(*lane).unsaved = unsaved.get(&lane.1).copied().unwrap_or(0);
        }
        lanes
    }

    /// Returns the overflowed targets.
    pub(crate) fn overflowed_targets(&self) -> impl Iterator<Item = Target> {
        self.overflowed.keys().copied()
    }

    /// Returns the lanes that have jobs, with the first job where it is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LaneId, Option<&LaneHead>)> {
        self.lanes
            .iter()
            .map(|(id, lane)| (*id, lane.head.as_ref()))
    }

    fn entry(&mut self, id: LaneId) -> &mut QueuedLane {
        self.lanes.entry(id).or_insert_with(|| {
            *self.counts.entry(id.0).or_default() += 1;
            self.query_order.push_back(id);
            self.stamp += 1;
            QueuedLane {
                added: self.stamp,
                ..QueuedLane::default()
            }
        })
    }

    fn overflow_if_full(&mut self, target: Target) -> bool {
        let many = self
            .counts
            .get(&target)
            .is_some_and(|count| *count > MAX_LANES);
        if many {
            self.overflow(target);
        }
        many
    }
}

#[cfg(test)]
mod tests;
