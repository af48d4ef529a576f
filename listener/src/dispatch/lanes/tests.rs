#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

fn start(lanes: &mut Lanes<u32>) -> Option<(LaneId, u32)> {
    lanes.start_next().map(|(id, item)| (id, *item))
}

#[test]
fn lane_runs_one_at_a_time_in_order() {
    let mut lanes = Lanes::new(1, 9, 9);
    lanes.push((0, 7), 1);
    lanes.push((0, 7), 2);
    assert_eq!(start(&mut lanes), Some(((0, 7), 1)));
    assert_eq!(start(&mut lanes), None);
    assert_eq!(lanes.finish((0, 7)), Some(1));
    assert_eq!(start(&mut lanes), Some(((0, 7), 2)));
    lanes.finish((0, 7));
    assert!(lanes.by_id.is_empty(), "an empty lane is removed");
}

#[test]
fn targets_are_scheduled_round_robin_within_limits() {
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
    assert_eq!(start(&mut lanes), None, "the first target is at its limit");
    lanes.finish((0, 0));
    assert_eq!(start(&mut lanes).unwrap().0, (0, 2));
}

#[test]
fn batched_deliveries_take_no_room_from_others() {
    let mut lanes = Lanes::new(2, 2, 2);
    lanes.set_limit(0, 4, true);
    let push = |lanes: &mut Lanes<u32>, target| {
        for key in 0..5 {
            lanes.push((target, key), key);
        }
    };
    let started = |lanes: &mut Lanes<u32>| -> Vec<LaneId> {
        std::iter::from_fn(|| start(lanes).map(|(id, _)| id)).collect()
    };
    push(&mut lanes, 0);
    assert_eq!(started(&mut lanes), [0, 1, 2, 3].map(|key| (0, key)));
    push(&mut lanes, 1);
    assert_eq!(started(&mut lanes), [(1, 0), (1, 1)]);
    lanes.set_limit(0, 4, false);
    for key in 0..4 {
        lanes.finish((0, key));
    }
    assert_eq!(started(&mut lanes), [], "two are running");
    lanes.finish((1, 0));
    assert_eq!(started(&mut lanes).len(), 1);
}

#[test]
fn blocked_lane_delays_no_other() {
    let mut lanes = Lanes::new(1, 1, 1);
    for (key, item) in [(1, 1), (1, 2), (1, 3), (2, 4)] {
        lanes.push((0, key), item);
    }
    start(&mut lanes);
    assert_eq!(lanes.finish_and_block((0, 1)), Some(1));
    assert_eq!(start(&mut lanes), Some(((0, 2), 4)));
    lanes.finish((0, 2));
    assert_eq!(start(&mut lanes), None);
    assert_eq!(lanes.drain_blocked((0, 1), |item| *item < 3), [2]);
    lanes.push((0, 1), 5);
    lanes.unblock((0, 1));
    assert_eq!(start(&mut lanes), Some(((0, 1), 3)));
    lanes.finish((0, 1));
    assert_eq!(start(&mut lanes), Some(((0, 1), 5)));
    lanes.finish((0, 1));
    lanes.block((0, 9));
    lanes.push((0, 9), 6);
    assert_eq!(start(&mut lanes), None);
    lanes.unblock((0, 9));
    assert_eq!(start(&mut lanes), Some(((0, 9), 6)));
}

#[derive(Clone, Debug)]
enum LaneOp {
    Push(usize, u32),
    Start,
    Finish(usize, bool),
    Unblock(usize, u32),
    Remove(u32),
}

fn lane_ops() -> impl Strategy<Value = Vec<LaneOp>> {
    prop::collection::vec(
        prop_oneof![
            3 => (0usize..3, 0u32..4).prop_map(|(target, key)| LaneOp::Push(target, key)),
            4 => Just(LaneOp::Start),
            3 => (any::<usize>(), any::<bool>()).prop_map(|(n, retry)| LaneOp::Finish(n, retry)),
            1 => (0usize..3, 0u32..4).prop_map(|(target, key)| LaneOp::Unblock(target, key)),
            1 => (0u32..4).prop_map(LaneOp::Remove),
        ],
        0..200,
    )
}

proptest! {
    #[test]
    fn every_delivery_runs_once_in_order_within_limits(ops in lane_ops()) {
        let mut lanes: Lanes<u32> = Lanes::new(3, 3, 2);
        lanes.set_limit(2, 3, true);
        let mut running: Vec<LaneId> = Vec::new();
        let mut pushed: HashMap<LaneId, Vec<u32>> = HashMap::new();
        let mut done: HashMap<LaneId, Vec<u32>> = HashMap::new();
        let mut blocked: std::collections::BTreeSet<LaneId> = std::collections::BTreeSet::new();
        let mut items = 0;
        for step in ops {
            match step {
                LaneOp::Push(target, key) => {
                    items += 1;
                    pushed.entry((target, key)).or_default().push(items);
                    lanes.push((target, key), items);
                }
                LaneOp::Start => if let Some((id, _)) = start(&mut lanes) { running.push(id) },
                LaneOp::Finish(n, retry) => if !running.is_empty() {
                    let id = running.swap_remove(n % running.len());
                    let item = if retry { blocked.insert(id); lanes.finish_and_block(id) } else { lanes.finish(id) };
                    done.entry(id).or_default().extend(item);
                },
                LaneOp::Unblock(target, key) => if blocked.remove(&(target, key)) {
                    let spilled = lanes.drain_blocked((target, key), |item| item % 2 == 0);
                    done.entry((target, key)).or_default().extend(spilled);
                    lanes.unblock((target, key));
                },
                LaneOp::Remove(key) => {
                    blocked.retain(|id| id.1 != key);
                    for gone in lanes.remove_lanes(|other| other == key) {
                        for pushed in pushed.values_mut() {
                            pushed.retain(|item| *item != gone);
                        }
                    }
                }
            }
            pushed.retain(|_, items| !items.is_empty());
            prop_assert_eq!(running.len(), lanes.running());
            let of = |target| running.iter().filter(|id| id.0 == target).count();
            prop_assert!(of(0) <= 2 && of(1) <= 2 && of(0) + of(1) <= 3 && of(2) <= 3);
            let mut lanes_running = running.clone();
            lanes_running.sort_unstable();
            lanes_running.dedup();
            let held: usize = (0..3).map(|target| lanes.target_len(target)).sum();
            let completed: usize = done.values().map(Vec::len).sum();
            prop_assert_eq!(held + completed, pushed.values().map(Vec::len).sum::<usize>());
            prop_assert_eq!(lanes_running.len(), running.len(), "one at a time in a lane");
        }
        for id in blocked {
            lanes.unblock(id);
        }
        loop {
            while let Some((id, _)) = start(&mut lanes) { running.push(id); }
            let Some(id) = running.pop() else { break };
            done.entry(id).or_default().extend(lanes.finish(id));
        }
        prop_assert_eq!(done, pushed);
        prop_assert!(lanes.by_id.is_empty() && lanes.order.is_empty());
    }
}
