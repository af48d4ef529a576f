//! Who comes first, and how many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use observer_queue::{ClaimRequest, JobOutcome, Priority};
use testkit::wait::Patience;
use tokio::task::JoinSet;

use crate::support::builders::{
    ACTION, MANY_BYTES, OBSERVER, RecordedDeadLetters, add, complete_batch, ended, job, lane,
    lane_of, request, request_for, worker,
};
use crate::support::{CALM, Fixture, LISTENER};

/// Jobs of the observer that has many.
const MANY: i64 = 20_000;

pub(crate) async fn backlog_of_one_observer_does_not_delay_others(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let many: Vec<_> = (0..MANY)
        .map(|log_id| {
            job(
                &lane_of("shop/many", u32::try_from(log_id).unwrap()),
                log_id,
            )
        })
        .collect();
    for some in many.chunks(2000) {
        add(&*queue, fixture.pool(), some).await;
    }
    let few: Vec<_> = (0..10)
        .map(|hash| job(&lane_of("shop/few", hash), MANY + i64::from(hash)))
        .collect();
    add(&*queue, fixture.pool(), &few).await;
    let mut left = few.len();
    let mut claims = 0;
    while left > 0 {
        claims += 1;
        assert!(
            claims <= 3,
            "{left} of the few are left after 3 claims of 16"
        );
        let ids = complete_batch(
            &*queue,
            worker,
            &request_for(&["shop/many", "shop/few"], 16),
        )
        .await;
        assert_eq!(ids.len(), 16);
        left -= ids.iter().filter(|log_id| **log_id >= MANY).count();
    }
}

pub(crate) async fn tenants_are_claimed_round_robin(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let of = |tenant: &str, hash: u32| {
        let mut new = job(&lane(hash), i64::from(hash));
        new.job.tenant = Some(tenant.to_owned());
        new
    };
    let many: Vec<_> = (0..200).map(|hash| of("many", hash)).collect();
    let few: Vec<_> = (200..204).map(|hash| of("few", hash)).collect();
    add(&*queue, fixture.pool(), &many).await;
    add(&*queue, fixture.pool(), &few).await;
    // One at a time: every other one is of those who have few.
    let mut turns = 0;
    for _ in 0..12 {
        let ids = complete_batch(&*queue, worker, &request(1)).await;
        turns += ids.iter().filter(|log_id| **log_id >= 200).count();
    }
    assert_eq!(turns, 4, "all of the few are done in 12 turns");
}

pub(crate) async fn higher_priority_is_claimed_first(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let priorities = [Priority::Low, Priority::Normal, Priority::High];
    let jobs: Vec<_> = (0..30_u32)
        .map(|hash| {
            let mut new = job(&lane(hash), i64::from(hash));
            new.job.priority = priorities[hash as usize % 3];
            new
        })
        .collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let mut order = Vec::new();
    while order.len() < 30 {
        let batches = queue.claim(worker, &request(4)).await.unwrap();
        assert!(!batches.is_empty(), "nothing more after {order:?}");
        order.extend(batches.iter().map(|batch| batch.jobs[0].job.priority));
    }
    assert!(order.is_sorted(), "{order:?}");
}

pub(crate) async fn unknown_actions_are_not_claimed(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let jobs = [
        job(&lane_of("shop/new", 1), 1),
        job(&lane(2), 2),
        job(&lane_of("shop/newer", 3), 3),
    ];
    add(&*queue, fixture.pool(), &jobs).await;
    assert_eq!(complete_batch(&*queue, worker, &request(8)).await, [2]);
    assert!(queue.claim(worker, &request(8)).await.unwrap().is_empty());
    let nothing = ClaimRequest {
        max_bytes: MANY_BYTES,
        max_lanes: 8,
        actions: Vec::new(),
        max_running_total: None,
    };
    assert!(queue.claim(worker, &nothing).await.unwrap().is_empty());
    let mut left = complete_batch(
        &*queue,
        worker,
        &request_for(&["shop/new", "shop/newer"], 8),
    )
    .await;
    left.sort_unstable();
    assert_eq!(left, [1, 3]);
}

pub(crate) async fn running_limits_hold_under_concurrent_claims(fixture: &dyn Fixture) {
    const FLEET: usize = 5;
    const OF_ACTION: usize = 3;
    let queue = fixture.open(LISTENER, CALM).await;
    let observers = [OBSERVER, "shop/other"];
    let jobs: Vec<_> = (0..400_u32)
        .map(|n| job(&lane_of(observers[n as usize % 2], n % 60), i64::from(n)))
        .collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let limited = ClaimRequest {
        max_bytes: MANY_BYTES,
        max_lanes: 4,
        actions: vec![
            (
                OBSERVER.into(),
                ACTION.into(),
                Some(u32::try_from(OF_ACTION).unwrap()),
            ),
            ("shop/other".into(), ACTION.into(), None),
        ],
        max_running_total: Some(u32::try_from(FLEET).unwrap()),
    };
    let counters: Arc<[AtomicUsize; 2]> = Arc::default();
    let most = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..6 {
        let queue = fixture.open(LISTENER, CALM).await;
        let (limited, counters, most) = (limited.clone(), counters.clone(), most.clone());
        workers.spawn(async move {
            let worker = worker(&*queue).await;
            let mut patience = Patience::default();
            while !queue.is_empty().await.unwrap() {
                let batches = queue.claim(worker, &limited).await.unwrap();
                if !batches.is_empty() {
                    patience = Patience::default();
                }
                assert!(patience.lasts(), "there are jobs that it does not get");
                for batch in &batches {
                    let of = usize::from(&*batch.jobs[0].job.lane.observer != OBSERVER);
                    counters[of].fetch_add(1, Ordering::SeqCst);
                }
                let now = [0, 1].map(|of| counters[of].load(Ordering::SeqCst));
                assert!(now[0] <= OF_ACTION && now[0] + now[1] <= FLEET, "{now:?}");
                most.fetch_max(now[0] + now[1], Ordering::SeqCst);
                tokio::task::yield_now().await;
                for batch in &batches {
                    let of = usize::from(&*batch.jobs[0].job.lane.observer != OBSERVER);
                    counters[of].fetch_sub(1, Ordering::SeqCst);
                }
                let jobs = batches.iter().flat_map(|batch| &batch.jobs);
                let all: Vec<_> = jobs.map(|one| ended(one, JobOutcome::Completed)).collect();
                assert_eq!(
                    queue
                        .finish(worker, &all, &RecordedDeadLetters::default())
                        .await
                        .unwrap(),
                    []
                );
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    println!("most at once: {}", most.load(Ordering::SeqCst));
}
