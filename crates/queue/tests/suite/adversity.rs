//! The queue's server goes away and comes back, and its connections break.

use std::time::Duration;

use crate::support::builders::{job, lane};
use crate::support::faulty_workers::{FaultRates, FaultyWorkers};
use crate::support::{Fixture, HASTY, LISTENER, seed};
use testkit::wait::Patience;

/// Lanes of the tests.
const LANES: u32 = 8;

/// Jobs of each.
const PER_LANE: i64 = 60;

/// Lets a crew do all jobs while something happens again and again, and checks their order.
async fn while_it_happens(fixture: &dyn Fixture, times: u32, happen: impl AsyncFn(u32)) {
    let seed = seed();
    let mut workers = FaultyWorkers::default();
    for number in 0..4 {
        let queue = fixture.open(LISTENER, HASTY).await;
        let faults = FaultRates {
            fails: 0.1,
            ..FaultRates::default()
        };
        workers.start(queue, HASTY.lease, faults, seed.wrapping_add(number));
    }
    let queue = fixture.open(LISTENER, HASTY).await;
    let each = PER_LANE / i64::from(times);
    for time in 0..times {
        let from = i64::from(time) * each;
        let until = if time + 1 == times {
            PER_LANE
        } else {
            from + each
        };
        let jobs: Vec<_> = (from..until)
            .flat_map(|log_id| (0..LANES).map(move |hash| job(&lane(hash), log_id)))
            .collect();
        add_through(fixture, &*queue, &jobs).await;
        happen(time).await;
    }
    workers.empties(&*queue).await;
    let told = workers.end().await;
    println!("{told}");
    for hash in 0..LANES {
        let offered = told.offered(hash);
        assert_eq!(offered, Some(PER_LANE - 1), "lane {hash}, seed {seed}");
    }
}

/// Adds jobs once: again only when they are not there.
async fn add_through(
    fixture: &dyn Fixture,
    queue: &dyn observer_queue::JobQueue,
    jobs: &[observer_queue::NewJob],
) {
    let mut patience = Patience::default();
    let last = jobs.last().unwrap();
    loop {
        let added = async {
            let mut tx = fixture.pool().begin().await?;
            // As a save does: what was added is known by a row of the same transaction.
            let known: Option<i32> =
                sqlx::query_scalar("select 1 from observer.lease where name = $1")
                    .bind(&last.job.id)
                    .fetch_optional(&mut *tx)
                    .await?;
            if known.is_none() {
                queue.enqueue(&mut tx, jobs).await?;
                sqlx::query("insert into observer.lease values ('test', $1, 1, '{}')")
                    .bind(&last.job.id)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            Ok::<(), observer_queue::QueueError>(())
        };
        match added.await {
            Ok(()) => return,
            Err(error) => assert!(patience.lasts(), "cannot be added: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn broken_connections_lose_nothing(fixture: &dyn Fixture) {
    while_it_happens(fixture, 12, async |_| {
        fixture.cut_connections().await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    })
    .await;
}

pub(crate) async fn restarted_server_loses_nothing(fixture: &dyn Fixture) {
    while_it_happens(fixture, 4, async |time| {
        if time % 2 == 0 {
            fixture.stop().await;
        } else {
            fixture.crash().await;
        }
        fixture.resume().await;
    })
    .await;
}
