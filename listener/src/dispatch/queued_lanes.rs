//! Which lanes have jobs in the queue, so that their deliveries must wait behind these.
//!
//! Only the owner of a shard adds jobs to its lanes, so a lane that was seen without jobs, with
//! none on their way there, stays without until its owner adds some. An action with too many such
//! lanes to be told apart is *crowded*: all of its deliveries become jobs, those of lanes without
//! any too, and the queue itself keeps them in order.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use queue::LaneHead;

use crate::observers::{LaneId, Target};

/// Most lanes with jobs that are told apart of one action.
pub(crate) const MAX_LANES: usize = 4096;

#[derive(Debug, Default)]
struct Lane {
    /// Jobs on their way into the queue.
    unsaved: usize,
    /// When the last job was added, so that an older answer counts for nothing.
    added: u64,
    /// As it was seen last.
    first: Option<LaneHead>,
}

#[derive(Debug, Default)]
struct Crowd {
    /// Jobs on their way into the queue, by key.
    unsaved: HashMap<u32, usize>,
    /// Keys of jobs that were added since the queue was asked; nothing if it was not.
    fresh: Option<HashSet<u32>>,
}

/// A question about a lane, and when the last job had been added to it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) lane: LaneId,
    added: u64,
}

/// See the module's words.
#[derive(Debug, Default)]
pub(crate) struct Diverted {
    lanes: HashMap<LaneId, Lane>,
    /// How many of them each target has.
    counts: HashMap<Target, usize>,
    crowded: BTreeMap<Target, Crowd>,
    /// Lanes in the order in which they are asked about.
    turn: VecDeque<LaneId>,
    /// Grows with each job and each lane.
    stamp: u64,
}

impl Diverted {
    /// Whether the lane is known to have jobs.
    pub(crate) fn has(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// Whether all deliveries of the target become jobs.
    pub(crate) fn is_crowded(&self, target: Target) -> bool {
        self.crowded.contains_key(&target)
    }

    /// Whether the target has jobs, as far as is known.
    pub(crate) fn concerns(&self, target: Target) -> bool {
        self.is_crowded(target) || self.counts.get(&target).is_some_and(|count| *count > 0)
    }

    /// Notes that a lane was seen with jobs. Answers whether that made its target crowded.
    pub(crate) fn seen(&mut self, lane: LaneId) -> bool {
        if self.is_crowded(lane.0) {
            return false;
        }
        self.lane(lane);
        self.crowd_if_many(lane.0)
    }

    /// A job of a lane is on its way into the queue. Answers whether that made its target crowded.
    pub(crate) fn added(&mut self, lane: LaneId) -> bool {
        if let Some(crowd) = self.crowded.get_mut(&lane.0) {
            *crowd.unsaved.entry(lane.1).or_default() += 1;
            if let Some(fresh) = &mut crowd.fresh {
                fresh.insert(lane.1);
            }
            return false;
        }
        self.stamp += 1;
        let stamp = self.stamp;
        let entry = self.lane(lane);
        entry.unsaved += 1;
        entry.added = stamp;
        self.crowd_if_many(lane.0)
    }

    /// A job of a lane is in the queue.
    pub(crate) fn saved(&mut self, lane: LaneId) {
        if let Some(crowd) = self.crowded.get_mut(&lane.0) {
            if let Some(count) = crowd.unsaved.get_mut(&lane.1) {
                *count -= 1;
                if *count == 0 {
                    crowd.unsaved.remove(&lane.1);
                }
            }
        } else if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.unsaved = lane.unsaved.saturating_sub(1);
        }
    }

    /// All deliveries of a target become jobs from now on, until its lanes are known.
    pub(crate) fn crowd(&mut self, target: Target) {
        let mut crowd = self.crowded.remove(&target).unwrap_or_default();
        self.lanes.retain(|(of, key), lane| {
            if *of == target && lane.unsaved > 0 {
                crowd.unsaved.insert(*key, lane.unsaved);
            }
            *of != target
        });
        self.counts.remove(&target);
        // What was asked before says nothing.
        crowd.fresh = None;
        self.crowded.insert(target, crowd);
    }

    /// Forgets a target of which there is none any more.
    pub(crate) fn forget_target(&mut self, target: Target) {
        self.lanes.retain(|(of, _), _| *of != target);
        self.counts.remove(&target);
        self.crowded.remove(&target);
    }

    /// Forgets the lanes of some keys.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(u32) -> bool) {
        let counts = &mut self.counts;
        self.lanes.retain(|(target, key), _| {
            let stays = !is_gone(*key);
            if let (false, Some(count)) = (stays, counts.get_mut(target)) {
                *count -= 1;
            }
            stays
        });
        for crowd in self.crowded.values_mut() {
            crowd.unsaved.retain(|key, _| !is_gone(*key));
        }
    }

    /// Other shards are this process's now, so an answer that is under way is incomplete.
    pub(crate) fn other_shards(&mut self) {
        for crowd in self.crowded.values_mut() {
            crowd.fresh = None;
        }
    }

    /// Lanes to ask about, at most so many, each in its turn; of those whose turn is near, first the
    /// ones for which `is_urgent`.
    pub(crate) fn ask(&mut self, most: usize, is_urgent: impl Fn(LaneId) -> bool) -> Vec<Asked> {
        let near = self.turn.len().min(MAX_LANES);
        let mut seen = HashSet::new();
        let near: Vec<LaneId> = self.turn.drain(..near).collect();
        let (urgent, others): (Vec<LaneId>, Vec<LaneId>) = near
            .into_iter()
            .filter(|lane| self.lanes.contains_key(lane) && seen.insert(*lane))
            .partition(|lane| is_urgent(*lane));
        let (mut asked, mut left) = (Vec::new(), Vec::new());
        for lane in urgent.into_iter().chain(others) {
            match self.lanes.get(&lane) {
                Some(state) if asked.len() < most && state.unsaved == 0 => asked.push(Asked {
                    lane,
                    added: state.added,
                }),
                _ => left.push(lane),
            }
        }
        for lane in left.into_iter().rev() {
            self.turn.push_front(lane);
        }
        self.turn.extend(asked.iter().map(|asked| asked.lane));
        asked
    }

    /// Takes an answer about a lane. Answers whether the lane is without jobs now, and whether it
    /// has got on since it was seen last.
    pub(super) fn answered(&mut self, asked: Asked, first: Option<LaneHead>) -> (bool, bool) {
        let Some(lane) = self.lanes.get_mut(&asked.lane) else {
            return (false, false);
        };
        if let Some(first) = first {
            let before = lane.first.as_ref().map(|first| first.log_id);
            let got_on = before.is_some_and(|before| before != first.log_id);
            lane.first = Some(first);
            return (false, got_on);
        }
        if lane.unsaved > 0 || lane.added != asked.added {
            return (false, true);
        }
        self.lanes.remove(&asked.lane);
        if let Some(count) = self.counts.get_mut(&asked.lane.0) {
            *count -= 1;
        }
        (true, true)
    }

    /// Whether the queue is to be asked for the lanes of crowded targets.
    pub(crate) fn ask_for_lanes(&mut self) -> bool {
        for crowd in self.crowded.values_mut() {
            crowd.fresh = Some(crowd.unsaved.keys().copied().collect());
        }
        !self.crowded.is_empty()
    }

    /// Takes the lanes of a target, as they were some time after the last question, if they are
    /// few enough. Answers with the lanes that are told apart from now on.
    pub(crate) fn lanes_are(&mut self, target: Target, keys: Option<&[u32]>) -> Vec<LaneId> {
        let Some(keys) = keys else {
            return Vec::new();
        };
        let Some(crowd) = self.crowded.get_mut(&target) else {
            return Vec::new();
        };
        let Some(mut all) = crowd.fresh.take() else {
            return Vec::new();
        };
        all.extend(keys);
        // Not at the bound, so that it does not go to and fro.
        if all.len() > MAX_LANES / 2 {
            return Vec::new();
        }
        let unsaved = std::mem::take(&mut crowd.unsaved);
        self.crowded.remove(&target);
        let lanes: Vec<LaneId> = all.into_iter().map(|key| (target, key)).collect();
        for lane in &lanes {
            self.lane(*lane).unsaved = unsaved.get(&lane.1).copied().unwrap_or(0);
        }
        lanes
    }

    /// Targets that are crowded.
    pub(crate) fn crowded(&self) -> impl Iterator<Item = Target> {
        self.crowded.keys().copied()
    }

    /// Lanes that have jobs, with the first of these where it was seen.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (LaneId, Option<&LaneHead>)> {
        self.lanes
            .iter()
            .map(|(id, lane)| (*id, lane.first.as_ref()))
    }

    fn lane(&mut self, id: LaneId) -> &mut Lane {
        self.lanes.entry(id).or_insert_with(|| {
            *self.counts.entry(id.0).or_default() += 1;
            self.turn.push_back(id);
            self.stamp += 1;
            Lane {
                added: self.stamp,
                ..Lane::default()
            }
        })
    }

    fn crowd_if_many(&mut self, target: Target) -> bool {
        let many = self
            .counts
            .get(&target)
            .is_some_and(|count| *count > MAX_LANES);
        if many {
            self.crowd(target);
        }
        many
    }
}

#[cfg(test)]
mod tests;
