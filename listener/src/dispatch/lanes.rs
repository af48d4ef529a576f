//! Which delivery may run next.
//!
//! A lane holds the deliveries of one target (an action of an observer) for one key, and runs
//! one at a time in the order in which they came. Targets take turns, so that one with many
//! lanes does not starve another; within a target, lanes do. A delivery that waits for its
//! next attempt blocks its own lane only and holds no place among those under way.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Number of a target.
pub type Target = usize;

/// A lane: target, and hash of tenant, entity and key.
pub type LaneId = (Target, u32);

#[derive(Debug)]
enum State {
    Ready,
    Running,
    Waiting,
}

#[derive(Debug)]
struct Lane<T> {
    state: State,
    /// The first is the one that runs, waits or comes next.
    queue: VecDeque<T>,
}

#[derive(Debug, Default)]
struct Turn {
    ready: VecDeque<u32>,
    running: usize,
    /// Deliveries in all its lanes.
    held: usize,
    queued_up: bool,
}

/// All lanes, with bounds on what runs at once. `I` is the clock's instant.
#[derive(Debug)]
pub struct Lanes<T, I> {
    by_id: HashMap<LaneId, Lane<T>>,
    turns: Vec<Turn>,
    /// Targets with a ready lane and room to run it.
    order: VecDeque<Target>,
    waiting: BTreeMap<(I, u64), LaneId>,
    ticket: u64,
    running: usize,
    most: usize,
    most_per_target: usize,
}

impl<T, I: Ord + Copy> Lanes<T, I> {
    /// No lanes yet; at most `most` deliveries run at once, and `most_per_target` of one target.
    #[must_use]
    pub fn new(targets: usize, most: usize, most_per_target: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            turns: std::iter::repeat_with(Turn::default)
                .take(targets)
                .collect(),
            order: VecDeque::new(),
            waiting: BTreeMap::new(),
            ticket: 0,
            running: 0,
            most,
            most_per_target,
        }
    }

    /// Makes place for targets up to this number; those that there are stay as they are.
    pub fn make_place(&mut self, targets: usize) {
        if self.turns.len() < targets {
            self.turns.resize_with(targets, Turn::default);
        }
    }

    /// Deliveries of a target that are not over.
    #[must_use]
    pub fn held(&self, target: Target) -> usize {
        self.turns.get(target).map_or(0, |turn| turn.held)
    }

    /// Adds a delivery to the end of its lane.
    pub fn push(&mut self, id: LaneId, item: T) {
        let Some(turn) = self.turns.get_mut(id.0) else {
            debug_assert!(false, "a target has its place before its deliveries");
            return;
        };
        turn.held += 1;
        let lane = self.by_id.entry(id).or_insert_with(|| Lane {
            state: State::Ready,
            queue: VecDeque::new(),
        });
        lane.queue.push_back(item);
        if lane.queue.len() == 1 {
            self.ready(id);
        }
    }

    /// Takes the next lane to run, with its first delivery, if there is room.
    pub fn start(&mut self) -> Option<(LaneId, &mut T)> {
        if self.running >= self.most {
            return None;
        }
        let target = self.order.pop_front()?;
        let turn = self.turns.get_mut(target)?;
        turn.queued_up = false;
        let key = turn.ready.pop_front()?;
        turn.running += 1;
        self.running += 1;
        self.queue_up(target);
        let id = (target, key);
        let lane = self.by_id.get_mut(&id)?;
        lane.state = State::Running;
        lane.queue.front_mut().map(|item| (id, item))
    }

    /// The lane's first delivery is over: takes it out and lets the next one come.
    pub fn finish(&mut self, id: LaneId) -> Option<T> {
        self.stop_running(id);
        let lane = self.by_id.get_mut(&id)?;
        let item = lane.queue.pop_front();
        if let (Some(_), Some(turn)) = (&item, self.turns.get_mut(id.0)) {
            turn.held -= 1;
        }
        if lane.queue.is_empty() {
            self.by_id.remove(&id);
        } else {
            self.ready(id);
        }
        item
    }

    /// The lane's first delivery is to be tried again at `due`.
    pub fn wait(&mut self, id: LaneId, due: I) -> Option<&mut T> {
        self.stop_running(id);
        self.ticket += 1;
        self.waiting.insert((due, self.ticket), id);
        let lane = self.by_id.get_mut(&id)?;
        lane.state = State::Waiting;
        lane.queue.front_mut()
    }

    /// Makes those ready whose time has come.
    pub fn wake(&mut self, now: I) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let id = entry.remove();
            self.ready(id);
        }
    }

    /// Takes out the deliveries of some keys that are not under way; those that are stay, and block
    /// their lanes until they end.
    pub fn leave(&mut self, leaves: impl Fn(u32) -> bool) -> Vec<T> {
        let mut left = Vec::new();
        self.by_id.retain(|(target, key), lane| {
            if !leaves(*key) {
                return true;
            }
            let running = usize::from(matches!(lane.state, State::Running));
            let gone = lane.queue.split_off(running.min(lane.queue.len()));
            if let Some(turn) = self.turns.get_mut(*target) {
                turn.held -= gone.len();
            }
            left.extend(gone);
            running > 0
        });
        self.waiting.retain(|_, (_, key)| !leaves(*key));
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

    /// When the next one's time comes.
    #[must_use]
    pub fn next_due(&self) -> Option<I> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// Deliveries under way.
    #[must_use]
    pub const fn running(&self) -> usize {
        self.running
    }

    /// Deliveries that wait for their next attempt.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn ready(&mut self, id: LaneId) {
        let (Some(lane), Some(turn)) = (self.by_id.get_mut(&id), self.turns.get_mut(id.0)) else {
            return;
        };
        lane.state = State::Ready;
        turn.ready.push_back(id.1);
        self.queue_up(id.0);
    }

    fn stop_running(&mut self, id: LaneId) {
        let was_running = self
            .by_id
            .get(&id)
            .is_some_and(|lane| matches!(lane.state, State::Running));
        debug_assert!(was_running, "only what runs can end");
        if let (true, Some(turn)) = (was_running, self.turns.get_mut(id.0)) {
            turn.running -= 1;
            self.running -= 1;
            self.queue_up(id.0);
        }
    }

    /// Gives the target its turn if it can use one.
    fn queue_up(&mut self, target: Target) {
        let Some(turn) = self.turns.get_mut(target) else {
            return;
        };
        if !turn.queued_up && !turn.ready.is_empty() && turn.running < self.most_per_target {
            turn.queued_up = true;
            self.order.push_back(target);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn start(lanes: &mut Lanes<u32, u64>) -> Option<(LaneId, u32)> {
        lanes.start().map(|(id, item)| (id, *item))
    }

    #[test]
    fn a_lane_runs_one_at_a_time_in_order() {
        let mut lanes = Lanes::new(1, 9, 9);
        lanes.push((0, 7), 1);
        lanes.push((0, 7), 2);
        assert_eq!(start(&mut lanes), Some(((0, 7), 1)));
        assert_eq!(start(&mut lanes), None);
        assert_eq!(lanes.finish((0, 7)), Some(1));
        assert_eq!(start(&mut lanes), Some(((0, 7), 2)));
        lanes.finish((0, 7));
        assert!(
            lanes.by_id.is_empty(),
            "a lane without deliveries is forgotten"
        );
    }

    #[test]
    fn targets_take_turns_and_keep_their_bound() {
        let mut lanes = Lanes::new(2, 3, 2);
        for key in 0..5 {
            lanes.push((0, key), key);
        }
        lanes.push((1, 0), 100);
        let started: Vec<_> = std::iter::from_fn(|| start(&mut lanes))
            .map(|(id, _)| id)
            .collect();
        assert_eq!(started, [(0, 0), (1, 0), (0, 1)]);
        lanes.finish((1, 0));
        assert_eq!(start(&mut lanes), None, "the first target is at its bound");
        lanes.finish((0, 0));
        assert_eq!(start(&mut lanes).unwrap().0, (0, 2));
    }

    #[test]
    fn waiting_blocks_its_own_lane_only() {
        let mut lanes = Lanes::new(1, 1, 1);
        lanes.push((0, 1), 1);
        lanes.push((0, 1), 2);
        lanes.push((0, 2), 3);
        start(&mut lanes);
        lanes.wait((0, 1), 50);
        assert_eq!(lanes.next_due(), Some(50));
        assert_eq!(start(&mut lanes), Some(((0, 2), 3)));
        lanes.finish((0, 2));
        lanes.wake(49);
        assert_eq!(start(&mut lanes), None);
        lanes.wake(50);
        assert_eq!(
            start(&mut lanes),
            Some(((0, 1), 1)),
            "the same one again, before those behind it"
        );
    }

    #[derive(Clone, Debug)]
    enum Move {
        Push(usize, u32),
        Start,
        End(usize, bool),
        Wake,
        Leave(u32),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        prop::collection::vec(
            prop_oneof![
                3 => (0usize..3, 0u32..4).prop_map(|(target, key)| Move::Push(target, key)),
                4 => Just(Move::Start),
                3 => (any::<usize>(), any::<bool>()).prop_map(|(n, retry)| Move::End(n, retry)),
                1 => Just(Move::Wake),
                1 => (0u32..4).prop_map(Move::Leave),
            ],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn everything_runs_once_in_order_within_bounds(moves in moves()) {
            let mut lanes: Lanes<u32, u64> = Lanes::new(3, 4, 2);
            let mut running: Vec<LaneId> = Vec::new();
            let mut pushed: HashMap<LaneId, Vec<u32>> = HashMap::new();
            let mut done: HashMap<LaneId, Vec<u32>> = HashMap::new();
            let (mut items, mut clock) = (0, 0);
            for step in moves {
                clock += 1;
                match step {
                    Move::Push(target, key) => {
                        items += 1;
                        pushed.entry((target, key)).or_default().push(items);
                        lanes.push((target, key), items);
                    }
                    Move::Start => if let Some((id, _)) = start(&mut lanes) { running.push(id) },
                    Move::End(n, retry) => if !running.is_empty() {
                        let id = running.swap_remove(n % running.len());
                        if retry { lanes.wait(id, clock + 3); } else { done.entry(id).or_default().extend(lanes.finish(id)); }
                    },
                    Move::Wake => lanes.wake(clock),
                    Move::Leave(key) => {
                        for gone in lanes.leave(|other| other == key) {
                            for pushed in pushed.values_mut() {
                                pushed.retain(|item| *item != gone);
                            }
                        }
                    }
                }
                pushed.retain(|_, items| !items.is_empty());
                prop_assert!(running.len() == lanes.running() && running.len() <= 4);
                for target in 0..3 {
                    prop_assert!(running.iter().filter(|id| id.0 == target).count() <= 2);
                }
                let mut lanes_running = running.clone();
                lanes_running.sort_unstable();
                lanes_running.dedup();
                let held: usize = (0..3).map(|target| lanes.held(target)).sum();
                let over: usize = done.values().map(Vec::len).sum();
                prop_assert_eq!(held + over, pushed.values().map(Vec::len).sum::<usize>());
                prop_assert_eq!(lanes_running.len(), running.len(), "one at a time in a lane");
            }
            loop {
                lanes.wake(u64::MAX);
                while let Some((id, _)) = start(&mut lanes) { running.push(id); }
                let Some(id) = running.pop() else { break };
                done.entry(id).or_default().extend(lanes.finish(id));
            }
            prop_assert_eq!(done, pushed);
            prop_assert!(lanes.by_id.is_empty() && lanes.order.is_empty() && lanes.waiting.is_empty());
        }
    }
}
