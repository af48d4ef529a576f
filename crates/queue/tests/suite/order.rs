//! Order within a lane under all faults.

use std::time::Duration;

use crate::support::builders::{job, lane};
use crate::support::faulty_workers::{FaultRates, FaultyWorkers};
use crate::support::{Fixture, HASTY, LISTENER, seed};

/// Lanes of the test.
const LANES: u32 = 12;

/// Jobs of each.
const PER_LANE: i64 = 150;

pub(crate) async fn lanes_keep_order_under_failures_and_lease_expiry(fixture: &dyn Fixture) {
    let seed = seed();
    let mut workers = FaultyWorkers::default();
    let faults = FaultRates {
        fails: 0.2,
        dies: 0.01,
        falters: 0.005,
    };
    for number in 0..6 {
        let queue = fixture.open(LISTENER, HASTY).await;
        workers.start(queue, HASTY.lease, faults, seed.wrapping_add(number));
    }
    let queue = fixture.open(LISTENER, HASTY).await;
    let mut next = 0;
    while next < PER_LANE {
        // Of each lane a few, as a save brings them.
        let some = 1 + (seed.wrapping_add(next.unsigned_abs()) % 5).cast_signed();
        let until = (next + some).min(PER_LANE);
        let jobs: Vec<_> = (next..until)
            .flat_map(|log_id| (0..LANES).map(move |hash| job(&lane(hash), log_id)))
            .collect();
        crate::support::builders::add(&*queue, fixture.pool(), &jobs).await;
        next = until;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    workers.empties(&*queue).await;
    let told = workers.end().await;
    println!("{told}");
    for hash in 0..LANES {
        // Their order was checked where batches began: two workers note their ends in any order.
        let mut ended: Vec<i64> = told.ended.get(&hash).cloned().unwrap_or_default();
        ended.sort_unstable();
        assert_eq!(
            ended,
            (0..PER_LANE).collect::<Vec<_>>(),
            "lane {hash}, seed {seed}"
        );
    }
}
