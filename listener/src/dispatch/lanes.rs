//! Which delivery may run next.
//!
//! A lane holds the deliveries of one target (an action of an observer) for one key, and runs
//! one at a time in the order in which they came. Targets take turns, so that one with many
//! lanes does not starve another; within a target, lanes do. A lane that is blocked, because jobs
//! of its key come first, runs nothing and stands in nobody's way.

use std::collections::{HashMap, VecDeque};

use crate::observers::{LaneId, Target};

#[derive(Debug)]
struct Lane<T> {
    running: bool,
    /// What runs shares its request with others.
    shares: bool,
    blocked: bool,
    /// The first is the one that runs or comes next.
    queue: VecDeque<T>,
}

#[derive(Debug, Default)]
struct Turn {
    ready: VecDeque<u32>,
    running: usize,
    /// Most that run at once.
    most: usize,
    /// Its deliveries share requests.
    shares: bool,
    /// Deliveries in all its lanes.
    held: usize,
    queued_up: bool,
}

/// All lanes, with bounds on what runs at once.
#[derive(Debug)]
pub struct Lanes<T> {
    by_id: HashMap<LaneId, Lane<T>>,
    turns: Vec<Turn>,
    /// Targets with a ready lane and room to run it.
    order: VecDeque<Target>,
    running: usize,
    /// Those among them that share requests.
    sharing: usize,
    most: usize,
    most_per_target: usize,
}

impl<T> Lanes<T> {
    /// No lanes yet; at most `most` deliveries run at once that share no requests, and
    /// `most_per_target` of one target that has no bound of its own.
    #[must_use]
    pub fn new(targets: usize, most: usize, most_per_target: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            turns: std::iter::repeat_with(|| Turn::new(most_per_target))
                .take(targets)
                .collect(),
            order: VecDeque::new(),
            running: 0,
            sharing: 0,
            most,
            most_per_target,
        }
    }

    /// Makes place for targets up to this number; those that there are stay as they are.
    pub fn make_place(&mut self, targets: usize) {
        if self.turns.len() < targets {
            let most = self.most_per_target;
            self.turns.resize_with(targets, || Turn::new(most));
        }
    }

    /// Bounds what runs at once of a target, and says whether that shares requests. What runs already
    /// goes on.
    pub fn bound(&mut self, target: Target, most: usize, shares: bool) {
        if let Some(turn) = self.turns.get_mut(target) {
            turn.most = most;
            turn.shares = shares;
            self.queue_up(target);
        }
    }

    /// Deliveries of a target that are not over.
    #[must_use]
    pub fn held(&self, target: Target) -> usize {
        self.turns.get(target).map_or(0, |turn| turn.held)
    }

    /// Deliveries in a lane.
    #[must_use]
    pub fn len(&self, id: LaneId) -> usize {
        self.by_id.get(&id).map_or(0, |lane| lane.queue.len())
    }

    /// Adds a delivery to the end of its lane.
    pub fn push(&mut self, id: LaneId, item: T) {
        let Some(turn) = self.turns.get_mut(id.0) else {
            debug_assert!(false, "a target has its place before its deliveries");
            return;
        };
        turn.held += 1;
        let lane = self.by_id.entry(id).or_insert_with(Lane::new);
        lane.queue.push_back(item);
        if lane.queue.len() == 1 && !lane.blocked {
            self.ready(id);
        }
    }

    /// Takes the next lane to run, with its first delivery, if there is room.
    pub fn start(&mut self) -> Option<(LaneId, &mut T)> {
        if self.running - self.sharing >= self.most {
            return None;
        }
        let target = self.order.pop_front()?;
        let turn = self.turns.get_mut(target)?;
        turn.queued_up = false;
        let key = turn.ready.pop_front()?;
        turn.running += 1;
        self.running += 1;
        let shares = turn.shares;
        self.sharing += usize::from(shares);
        self.queue_up(target);
        let id = (target, key);
        let lane = self.by_id.get_mut(&id)?;
        lane.running = true;
        lane.shares = shares;
        lane.queue.front_mut().map(|item| (id, item))
    }

    /// The lane's first delivery is over: takes it out and lets the next one come.
    pub fn finish(&mut self, id: LaneId) -> Option<T> {
        let item = self.end(id);
        if self.by_id.get(&id).is_some_and(|lane| !lane.blocked) {
            self.open(id);
        }
        item
    }

    /// The lane's first delivery becomes a job: takes it out, and blocks the lane.
    pub fn divert(&mut self, id: LaneId) -> Option<T> {
        let item = self.end(id);
        if let Some(lane) = self.by_id.get_mut(&id) {
            lane.blocked = true;
        }
        item
    }

    /// Blocks a lane. What is under way goes on.
    pub fn block(&mut self, id: LaneId) {
        let lane = self.by_id.entry(id).or_insert_with(Lane::new);
        if std::mem::replace(&mut lane.blocked, true) {
            return;
        }
        if let Some(turn) = self.turns.get_mut(id.0) {
            turn.ready.retain(|key| *key != id.1);
        }
    }

    /// Lets a lane go on that is blocked.
    pub fn open(&mut self, id: LaneId) {
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
            self.ready(id);
        }
    }

    /// The lanes of a target that are blocked. Looks at all lanes.
    #[must_use]
    pub fn blocked(&self, target: Target) -> Vec<LaneId> {
        let blocked = self.by_id.iter().filter(|(_, lane)| lane.blocked);
        let ids = blocked.map(|(id, _)| *id);
        ids.filter(|(of, _)| *of == target).collect()
    }

    /// Takes the first deliveries out of a blocked lane, as many as come before one that is not to
    /// be taken.
    pub fn spill(&mut self, id: LaneId, takes: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        debug_assert!(lane.blocked, "it is blocked");
        let running = usize::from(lane.running);
        let waits = lane.queue.iter().skip(running);
        let most = waits.take_while(|item| takes(item)).count();
        let spilled: Vec<T> = lane.queue.drain(running..running + most).collect();
        if let Some(turn) = self.turns.get_mut(id.0) {
            turn.held -= spilled.len();
        }
        spilled
    }

    /// Takes out the deliveries of some keys that are not under way; those that are stay, and hold
    /// up their lanes until they end.
    pub fn leave(&mut self, leaves: impl Fn(u32) -> bool) -> Vec<T> {
        let mut left = Vec::new();
        self.by_id.retain(|(target, key), lane| {
            if !leaves(*key) {
                return true;
            }
            let running = usize::from(lane.running);
            lane.blocked = false;
            let gone = lane.queue.split_off(running.min(lane.queue.len()));
            if let Some(turn) = self.turns.get_mut(*target) {
                turn.held -= gone.len();
            }
            left.extend(gone);
            running > 0
        });
        for turn in &mut self.turns {
            turn.ready.retain(|key| !leaves(*key));
            turn.queued_up &= !turn.ready.is_empty();
        }
        let turns = &self.turns;
        let queued_up = |target: &Target| turns.get(*target).is_some_and(|turn| turn.queued_up);
        self.order.retain(queued_up);
        left
    }

    /// The lane's first delivery.
    #[must_use]
    pub fn first(&self, id: LaneId) -> Option<&T> {
        self.by_id.get(&id)?.queue.front()
    }

    /// The first delivery of a lane for which `is_it` holds. Looks at all lanes.
    pub fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<(LaneId, &T)> {
        let mut firsts = self
            .by_id
            .iter()
            .filter_map(|(id, lane)| Some((*id, lane.queue.front()?)));
        firsts.find(|(_, item)| is_it(item))
    }

    /// Deliveries under way.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }

    fn ready(&mut self, id: LaneId) {
        let Some(turn) = self.turns.get_mut(id.0) else {
            return;
        };
        turn.ready.push_back(id.1);
        self.queue_up(id.0);
    }

    /// Takes out the delivery that runs.
    fn end(&mut self, id: LaneId) -> Option<T> {
        let lane = self.by_id.get_mut(&id)?;
        debug_assert!(lane.running, "only what runs can end");
        if !lane.running {
            return None;
        }
        lane.running = false;
        let item = lane.queue.pop_front();
        if let Some(turn) = self.turns.get_mut(id.0) {
            turn.held -= usize::from(item.is_some());
            turn.running -= 1;
            self.running -= 1;
            self.sharing -= usize::from(lane.shares);
            self.queue_up(id.0);
        }
        item
    }

    /// Gives the target its turn if it can use one.
    fn queue_up(&mut self, target: Target) {
        let Some(turn) = self.turns.get_mut(target) else {
            return;
        };
        if !turn.queued_up && !turn.ready.is_empty() && turn.running < turn.most {
            turn.queued_up = true;
            self.order.push_back(target);
        }
    }
}

impl Turn {
    fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }
}

impl<T> Lane<T> {
    const fn new() -> Self {
        Self {
            running: false,
            shares: false,
            blocked: false,
            queue: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests;
