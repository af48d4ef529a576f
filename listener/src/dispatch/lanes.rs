//! Lanes: which delivery may run next.
//!
//! A lane is the FIFO queue of one target (an action of an observer) for one key, and runs one
//! delivery at a time. Targets are scheduled round-robin, so that one with many lanes does not starve
//! another; so are the lanes of a target. A lane is blocked while the job queue holds jobs of its
//! key: it runs nothing, and delays no other lane.

use std::collections::{HashMap, VecDeque};

use crate::observers::{LaneId, Target};

/// The deliveries of a lane.
#[derive(Debug)]
struct LaneQueue<T> {
    running: bool,
    /// The running delivery shares its request with others.
    batched: bool,
    blocked: bool,
    /// The head is the one that runs or comes next.
    queue: VecDeque<T>,
}

/// The ready lanes of a target, and its limit.
#[derive(Debug, Default)]
struct TargetState {
    /// Keys of lanes that can run.
    ready: VecDeque<u32>,
    running: usize,
    /// Maximum number of deliveries that run at once.
    max_running: usize,
    /// Its deliveries share requests.
    batched: bool,
    /// Deliveries in all its lanes.
    len: usize,
    /// It is in [`Lanes::order`].
    scheduled: bool,
}

/// All lanes, with limits on what runs at once.
#[derive(Debug)]
pub struct Lanes<T> {
    by_id: HashMap<LaneId, LaneQueue<T>>,
    targets: Vec<TargetState>,
    /// Targets with a ready lane and room to run it.
    order: VecDeque<Target>,
    running: usize,
    /// Those among them that share requests.
    batched_running: usize,
    max_running: usize,
    max_per_target: usize,
}

impl<T> Lanes<T> {
    /// Creates no lanes; at most `max_running` deliveries run at once that share no requests, and
    /// `max_per_target` of one target that has no limit of its own.
    #[must_use]
    pub fn new(targets: usize, max_running: usize, max_per_target: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            targets: std::iter::repeat_with(|| TargetState::new(max_per_target))
                .take(targets)
                .collect(),
            order: VecDeque::new(),
            running: 0,
            batched_running: 0,
            max_running,
            max_per_target,
        }
    }

    /// Adds targets up to this number; existing ones stay as they are.
    pub fn resize(&mut self, targets: usize) {
        if self.targets.len() < targets {
            let max_running = self.max_per_target;
            self.targets
                .resize_with(targets, || TargetState::new(max_running));
        }
    }

    /// Sets how many deliveries of a target run at once, and whether they share requests. Running ones
    /// continue.
    pub fn set_limit(&mut self, target: Target, max_running: usize, batched: bool) {
        if let Some(state) = self.targets.get_mut(target) {
            state.max_running = max_running;
            state.batched = batched;
            self.schedule(target);
        }
    }

    /// Returns the number of deliveries of a target.
    #[must_use]
    pub fn target_len(&self, target: Target) -> usize {
        self.targets.get(target).map_or(0, |state| state.len)
    }

    /// Returns the number of deliveries in a lane.
    #[must_use]
    pub fn len(&self, id: LaneId) -> usize {
        self.by_id.get(&id).map_or(0, |lane| lane.queue.len())
    }

    /// Adds a delivery to the end of its lane.
    pub fn push(&mut self, id: LaneId, item: T) {
        let Some(state) = self.targets.get_mut(id.0) else {
            debug_assert!(false, "a target is added before its deliveries");
            return;
        };
        state.len += 1;
        let lane = self.by_id.entry(id).or_insert_with(LaneQueue::new);
        lane.queue.push_back(item);
        if lane.queue.len() == 1 && !lane.blocked {
            self.lane_ready(id);
        }
    }

    /// Starts the head of the next ready lane, if a limit leaves room.
    pub fn start_next(&mut self) -> Option<(LaneId, &mut T)> {
        if self.running - self.batched_running >= self.max_running {
            return None;
        }
        let target = self.order.pop_front()?;
        let state = self.targets.get_mut(target)?;
        state.scheduled = false;
        let key = state.ready.pop_front()?;
        state.running += 1;
        self.running += 1;
        let batched = state.batched;
        self.batched_running += usize::from(batched);
        self.schedule(target);
        let id = (target, key);
        let lane = self.by_id.get_mut(&id)?;
        lane.running = true;
        lane.batched = batched;
        lane.queue.front_mut().map(|item| (id, item))
    }

    /// Removes the running delivery of a lane, and lets the next one run.
    pub fn finish(&mut self, id: LaneId) -> Option<T> {
        let item = self.take_running(id);
        if self.by_id.get(&id).is_some_and(|lane| !lane.blocked) {
            self.unblock(id);
        }
        item
    }

    /// Removes the running delivery of a lane, and blocks the lane.
    pub fn finish_and_block(&mut self, id: LaneId) -> Option<T> {
        let item = self.take_running(id);
        if let Some(lane) = self.by_id.get_mut(&id) {
            lane.blocked = true;
        }
        item
    }

    /// Blocks a lane. Its running delivery continues.
    pub fn block(&mut self, id: LaneId) {
        let lane = self.by_id.entry(id).or_insert_with(LaneQueue::new);
        if std::mem::replace(&mut lane.blocked, true) {
            return;
        }
        if let Some(state) = self.targets.get_mut(id.0) {
            state.ready.retain(|key| *key != id.1);
        }
    }

    /// Unblocks a lane.
    pub fn unblock(&mut self, id: LaneId) {
        let Some(lane) = self.by_id.get_mut(&id) else {
            return;
        };
        lane.blocked = false;
        if lane.running {
            return;
        }
        if lane.queue.is_empty() {
            self.by_id.remove(&id);
        } else {
            self.lane_ready(id);
        }
    }

    /// Returns the blocked lanes of a target. Scans all lanes.
    #[must_use]
    pub fn blocked_lanes(&self, target: Target) -> Vec<LaneId> {
        let blocked = self.by_id.iter().filter(|(_, lane)| lane.blocked);
        let ids = blocked.map(|(id, _)| *id);
        ids.filter(|(of, _)| *of == target).collect()
    }

    /// Removes waiting deliveries from the head of a blocked lane, for as long as `takes` holds.
    pub fn drain_blocked(&mut self, id: LaneId, takes: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        debug_assert!(lane.blocked, "it is blocked");
        let running = usize::from(lane.running);
        let waits = lane.queue.iter().skip(running);
        let max_running = waits.take_while(|item| takes(item)).count();
        let spilled: Vec<T> = lane.queue.drain(running..running + max_running).collect();
        if let Some(state) = self.targets.get_mut(id.0) {
            state.len -= spilled.len();
        }
        spilled
    }

    /// Removes the lanes of some keys, and returns their waiting deliveries. Running ones stay, and
    /// delay their lanes until they end.
    pub fn remove_lanes(&mut self, leaves: impl Fn(u32) -> bool) -> Vec<T> {
        let mut left = Vec::new();
        self.by_id.retain(|(target, key), lane| {
            if !leaves(*key) {
                return true;
            }
            let running = usize::from(lane.running);
            lane.blocked = false;
            let gone = lane.queue.split_off(running.min(lane.queue.len()));
            if let Some(state) = self.targets.get_mut(*target) {
                state.len -= gone.len();
            }
            left.extend(gone);
            running > 0
        });
        for state in &mut self.targets {
            state.ready.retain(|key| !leaves(*key));
            state.scheduled &= !state.ready.is_empty();
        }
        let targets = &self.targets;
        let scheduled = |target: &Target| targets.get(*target).is_some_and(|state| state.scheduled);
        self.order.retain(scheduled);
        left
    }

    /// Returns the head of a lane.
    #[must_use]
    pub fn head(&self, id: LaneId) -> Option<&T> {
        self.by_id.get(&id)?.queue.front()
    }

    /// Returns the first head for which `is_it` holds. Scans all lanes.
    pub fn find_head(&self, is_it: impl Fn(&T) -> bool) -> Option<(LaneId, &T)> {
        let mut firsts = self
            .by_id
            .iter()
            .filter_map(|(id, lane)| Some((*id, lane.queue.front()?)));
        firsts.find(|(_, item)| is_it(item))
    }

    /// Returns the number of running deliveries.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }

    fn lane_ready(&mut self, id: LaneId) {
        let Some(state) = self.targets.get_mut(id.0) else {
            return;
        };
        state.ready.push_back(id.1);
        self.schedule(id.0);
    }

    /// Removes the running delivery of a lane.
    fn take_running(&mut self, id: LaneId) -> Option<T> {
        let lane = self.by_id.get_mut(&id)?;
        debug_assert!(lane.running, "only what runs can end");
        if !lane.running {
            return None;
        }
        lane.running = false;
        let item = lane.queue.pop_front();
        if let Some(state) = self.targets.get_mut(id.0) {
            state.len -= usize::from(item.is_some());
            state.running -= 1;
            self.running -= 1;
            self.batched_running -= usize::from(lane.batched);
            self.schedule(id.0);
        }
        item
    }

    /// Schedules a target, if it has a ready lane and room to run it.
    fn schedule(&mut self, target: Target) {
        let Some(state) = self.targets.get_mut(target) else {
            return;
        };
        if !state.scheduled && !state.ready.is_empty() && state.running < state.max_running {
            state.scheduled = true;
            self.order.push_back(target);
        }
    }
}

impl TargetState {
    fn new(max_running: usize) -> Self {
        Self {
            max_running,
            ..Self::default()
        }
    }
}

impl<T> LaneQueue<T> {
    const fn new() -> Self {
        Self {
            running: false,
            batched: false,
            blocked: false,
            queue: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests;
