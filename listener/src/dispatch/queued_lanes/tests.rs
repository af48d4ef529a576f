#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn head(log_id: i64) -> LaneHead {
    LaneHead {
        log_id,
        event_id: String::new(),
        attempts: 1,
        error: None,
    }
}

#[test]
fn lane_is_removed_once_empty_without_unsaved_jobs() {
    let mut queued = QueuedLanes::default();
    queued.job_added((0, 1));
    assert!(queued.contains((0, 1)) && queued.next_queries(9, |_| true).is_empty());
    queued.job_saved((0, 1));
    let query = queued.next_queries(9, |_| true)[0];
    assert_eq!(queued.apply_response(query, Some(head(7))), (false, false));
    assert_eq!(queued.apply_response(query, Some(head(8))), (false, true));
    // One more, which is committed before the response comes.
    queued.job_added((0, 1));
    queued.job_saved((0, 1));
    assert!(!queued.apply_response(query, None).0);
    let query = queued.next_queries(9, |_| true)[0];
    assert_eq!(queued.apply_response(query, None), (true, true));
    assert!(!queued.contains((0, 1)) && !queued.has_jobs(0));
    assert!(queued.next_queries(9, |_| true).is_empty());
}

#[test]
fn queries_are_round_robin_and_urgent_ones_first() {
    let mut queued = QueuedLanes::default();
    for key in 0..10 {
        queued.insert((0, key));
    }
    let keys = |query: Vec<LaneQuery>| query.iter().map(|one| one.lane.1).collect::<Vec<_>>();
    assert_eq!(keys(queued.next_queries(3, |(_, key)| key == 8)), [8, 0, 1]);
    assert_eq!(keys(queued.next_queries(3, |_| false)), [2, 3, 4]);
    assert_eq!(
        keys(queued.next_queries(9, |_| false)),
        [5, 6, 7, 9, 8, 0, 1, 2, 3]
    );
    queued.remove_lanes(|key| key < 9);
    assert_eq!(keys(queued.next_queries(9, |_| false)), [9]);
}

#[test]
fn target_overflows_until_its_lanes_are_few() {
    let mut queued = QueuedLanes::default();
    let most = u32::try_from(MAX_LANES).unwrap();
    for key in 0..most {
        assert!(!queued.insert((0, key)));
    }
    queued.job_added((0, 5));
    assert!(queued.job_added((0, most)), "one too many");
    assert!(queued.is_overflowed(0) && !queued.contains((0, 5)));
    assert!(!queued.job_added((0, 6)));
    assert!(queued.begin_listing());
    assert!(!queued.job_added((0, 7)));
    assert!(queued.apply_listing(0, None).is_empty());
    assert!(queued.begin_listing());
    queued.job_saved((0, 6));
    let mut lanes = queued.apply_listing(0, Some(&[1, 2]));
    lanes.sort_unstable();
    // What was on its way when the queue was query may not have been seen.
    assert_eq!(lanes, [(0, 1), (0, 2), (0, 5), (0, 6), (0, 7), (0, most)]);
    assert!(!queued.is_overflowed(0) && queued.contains((0, 7)));
    let query: Vec<u32> = queued
        .next_queries(99, |_| true)
        .iter()
        .map(|query| query.lane.1)
        .collect();
    assert_eq!(
        query.len(),
        3,
        "5, 7 and the last one are not saved: {query:?}"
    );
}

#[test]
fn stale_listing_does_not_end_overflow() {
    let mut queued = QueuedLanes::default();
    queued.overflow(3);
    assert!(queued.begin_listing());
    queued.shards_changed();
    assert!(queued.apply_listing(3, Some(&[])).is_empty() && queued.is_overflowed(3));
    assert!(queued.begin_listing());
    assert!(queued.apply_listing(3, Some(&[])).is_empty());
    assert!(!queued.is_overflowed(3));
}

#[derive(Clone, Debug)]
enum QueueOp {
    Add(u32),
    Save(usize),
    InFlightDelivery(u32),
    Query,
    QueueResponse(usize),
    Overflow,
    List,
    ApplyListing,
}

fn queue_ops() -> impl Strategy<Value = Vec<QueueOp>> {
    prop::collection::vec(
        prop_oneof![
            3 => (0u32..4).prop_map(QueueOp::Add),
            3 => any::<usize>().prop_map(QueueOp::Save),
            3 => (0u32..4).prop_map(QueueOp::InFlightDelivery),
            2 => Just(QueueOp::Query),
            2 => any::<usize>().prop_map(QueueOp::QueueResponse),
            1 => Just(QueueOp::Overflow),
            1 => Just(QueueOp::List),
            1 => Just(QueueOp::ApplyListing),
        ],
        0..120,
    )
}

proptest! {
    /// Whatever the order of commits, work and responses: a lane that has jobs, committed or not, is
    /// never taken for an empty one.
    #[test]
    fn no_lane_with_jobs_counts_as_empty(ops in queue_ops()) {
        let mut queued = QueuedLanes::default();
        let mut unsaved: Vec<u32> = Vec::new();
        let mut queue: BTreeMap<u32, usize> = BTreeMap::new();
        let mut responses: Vec<(LaneQuery, Option<LaneHead>)> = Vec::new();
        let mut all: Option<Vec<u32>> = None;
        for step in ops {
            match step {
                QueueOp::Add(key) => { queued.job_added((0, key)); unsaved.push(key); }
                QueueOp::Save(n) => if !unsaved.is_empty() {
                    let key = unsaved.remove(n % unsaved.len());
                    *queue.entry(key).or_default() += 1;
                    queued.job_saved((0, key));
                },
                QueueOp::InFlightDelivery(key) => if let Some(count) = queue.get_mut(&key) {
                    *count -= 1;
                    queue.retain(|_, count| *count > 0);
                },
                // The queue responds at once, and the response is applied later.
                QueueOp::Query => for query in queued.next_queries(2, |_| false) {
                    let found = queue.contains_key(&query.lane.1);
                    responses.push((query, found.then(|| head(1))));
                },
                QueueOp::QueueResponse(n) => if !responses.is_empty() {
                    let (query, first) = responses.remove(n % responses.len());
                    queued.apply_response(query, first);
                },
                QueueOp::Overflow => { queued.overflow(0); }
                QueueOp::List => if queued.begin_listing() {
                    all = Some(queue.keys().copied().collect());
                },
                QueueOp::ApplyListing => if let Some(keys) = all.take() {
                    queued.apply_listing(0, Some(&keys));
                },
            }
            for key in unsaved.iter().chain(queue.keys()) {
                prop_assert!(queued.is_overflowed(0) || queued.contains((0, *key)), "lane {key}");
            }
        }
    }
}
