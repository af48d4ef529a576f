#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn first(log_id: i64) -> LaneHead {
    LaneHead {
        log_id,
        event_id: String::new(),
        attempts: 1,
        error: None,
    }
}

#[test]
fn lane_unblocks_when_it_has_no_jobs_and_none_in_flight() {
    let mut diverted = Diverted::default();
    diverted.added((0, 1));
    assert!(diverted.has((0, 1)) && diverted.ask(9, |_| true).is_empty());
    diverted.saved((0, 1));
    let asked = diverted.ask(9, |_| true)[0];
    assert_eq!(diverted.answered(asked, Some(first(7))), (false, false));
    assert_eq!(diverted.answered(asked, Some(first(8))), (false, true));
    // One more, which is even saved before the answer comes.
    diverted.added((0, 1));
    diverted.saved((0, 1));
    assert!(!diverted.answered(asked, None).0);
    let asked = diverted.ask(9, |_| true)[0];
    assert_eq!(diverted.answered(asked, None), (true, true));
    assert!(!diverted.has((0, 1)) && !diverted.concerns(0));
    assert!(diverted.ask(9, |_| true).is_empty());
}

#[test]
fn each_lane_has_its_turn_and_urgent_ones_come_first() {
    let mut diverted = Diverted::default();
    for key in 0..10 {
        diverted.seen((0, key));
    }
    let keys = |asked: Vec<Asked>| asked.iter().map(|one| one.lane.1).collect::<Vec<_>>();
    assert_eq!(keys(diverted.ask(3, |(_, key)| key == 8)), [8, 0, 1]);
    assert_eq!(keys(diverted.ask(3, |_| false)), [2, 3, 4]);
    assert_eq!(
        keys(diverted.ask(9, |_| false)),
        [5, 6, 7, 9, 8, 0, 1, 2, 3]
    );
    diverted.forget(|key| key < 9);
    assert_eq!(keys(diverted.ask(9, |_| false)), [9]);
}

#[test]
fn too_many_lanes_make_a_crowd_until_they_are_few_again() {
    let mut diverted = Diverted::default();
    let most = u32::try_from(MAX_LANES).unwrap();
    for key in 0..most {
        assert!(!diverted.seen((0, key)));
    }
    diverted.added((0, 5));
    assert!(diverted.added((0, most)), "one too many");
    assert!(diverted.is_crowded(0) && !diverted.has((0, 5)));
    assert!(!diverted.added((0, 6)));
    assert!(diverted.ask_for_lanes());
    assert!(!diverted.added((0, 7)));
    assert!(diverted.lanes_are(0, None).is_empty());
    assert!(diverted.ask_for_lanes());
    diverted.saved((0, 6));
    let mut lanes = diverted.lanes_are(0, Some(&[1, 2]));
    lanes.sort_unstable();
    // What was on its way when the queue was asked may not have been seen.
    assert_eq!(lanes, [(0, 1), (0, 2), (0, 5), (0, 6), (0, 7), (0, most)]);
    assert!(!diverted.is_crowded(0) && diverted.has((0, 7)));
    let asked: Vec<u32> = diverted
        .ask(99, |_| true)
        .iter()
        .map(|asked| asked.lane.1)
        .collect();
    assert_eq!(
        asked.len(),
        3,
        "5, 7 and the last one are not saved: {asked:?}"
    );
}

#[test]
fn an_answer_for_other_shards_does_not_end_a_crowd() {
    let mut diverted = Diverted::default();
    diverted.crowd(3);
    assert!(diverted.ask_for_lanes());
    diverted.other_shards();
    assert!(diverted.lanes_are(3, Some(&[])).is_empty() && diverted.is_crowded(3));
    assert!(diverted.ask_for_lanes());
    assert!(diverted.lanes_are(3, Some(&[])).is_empty());
    assert!(!diverted.is_crowded(3));
}

#[derive(Clone, Debug)]
enum Move {
    Add(u32),
    Save(usize),
    Work(u32),
    Ask,
    Answer(usize),
    Crowd,
    AskAll,
    AnswerAll,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec(
        prop_oneof![
            3 => (0u32..4).prop_map(Move::Add),
            3 => any::<usize>().prop_map(Move::Save),
            3 => (0u32..4).prop_map(Move::Work),
            2 => Just(Move::Ask),
            2 => any::<usize>().prop_map(Move::Answer),
            1 => Just(Move::Crowd),
            1 => Just(Move::AskAll),
            1 => Just(Move::AnswerAll),
        ],
        0..120,
    )
}

proptest! {
    /// Whatever the order in which jobs are saved and worked on and answers come: a lane that has
    /// jobs, in the queue or on their way there, is never taken for one without.
    #[test]
    fn no_lane_with_jobs_is_taken_for_one_without(moves in moves()) {
        let mut diverted = Diverted::default();
        let mut on_their_way: Vec<u32> = Vec::new();
        let mut queue: BTreeMap<u32, usize> = BTreeMap::new();
        let mut answers: Vec<(Asked, Option<LaneHead>)> = Vec::new();
        let mut all: Option<Vec<u32>> = None;
        for step in moves {
            match step {
                Move::Add(key) => { diverted.added((0, key)); on_their_way.push(key); }
                Move::Save(n) => if !on_their_way.is_empty() {
                    let key = on_their_way.remove(n % on_their_way.len());
                    *queue.entry(key).or_default() += 1;
                    diverted.saved((0, key));
                },
                Move::Work(key) => if let Some(count) = queue.get_mut(&key) {
                    *count -= 1;
                    queue.retain(|_, count| *count > 0);
                },
                // The queue answers at once, and the answer travels.
                Move::Ask => for asked in diverted.ask(2, |_| false) {
                    let found = queue.contains_key(&asked.lane.1);
                    answers.push((asked, found.then(|| first(1))));
                },
                Move::Answer(n) => if !answers.is_empty() {
                    let (asked, first) = answers.remove(n % answers.len());
                    diverted.answered(asked, first);
                },
                Move::Crowd => { diverted.crowd(0); }
                Move::AskAll => if diverted.ask_for_lanes() {
                    all = Some(queue.keys().copied().collect());
                },
                Move::AnswerAll => if let Some(keys) = all.take() {
                    diverted.lanes_are(0, Some(&keys));
                },
            }
            for key in on_their_way.iter().chain(queue.keys()) {
                prop_assert!(diverted.is_crowded(0) || diverted.has((0, *key)), "lane {key}");
            }
        }
    }
}
