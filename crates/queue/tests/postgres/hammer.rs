//! The one race that would leave a lane asleep for ever: a job is added behind the last one of its
//! lane while that one ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use observer_queue::{JobFilter, JobOutcome, JobQueue};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use testkit::soak::rounds;
use testkit::wait::amounts_to;
use tokio::task::JoinSet;

use super::{Postgres, own};
use crate::support::builders::{
    RecordedDeadLetters, add, again, ended, job, lane, request, worker,
};
use crate::support::{CALM, Fixture, LISTENER, eventually, seed};

/// Few, so that all get in each other's way.
const LANES: u32 = 4;

/// Jobs that are done before it ends, in a plain run and in a long one.
const DONE: (u32, u32) = (1000, 30_000);

/// Lanes whose first job nobody can claim, now that nobody works.
const ASLEEP: &str = "select count(*) from (
        select distinct on (queue, lane_id) state from observer.job order by queue, lane_id, id
    ) f where f.state not in ('a', 's')";

/// Adds to all lanes, one or two jobs at a time, in transactions that take their time.
async fn add_on(queue: Arc<dyn JobQueue>, pool: PgPool, over: Arc<AtomicBool>, seed: u64) -> i64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut next = 0;
    while !over.load(Ordering::Relaxed) {
        let mut jobs = Vec::new();
        for _ in 0..random.random_range(1..3) {
            jobs.push(job(&lane(random.random_range(0..LANES)), next));
            next += 1;
        }
        let mut tx = pool.begin().await.unwrap();
        queue.enqueue(&mut tx, &jobs).await.unwrap();
        if random.random_bool(0.3) {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..2000))).await;
        }
        if random.random_bool(0.1) {
            tx.rollback().await.unwrap();
            next -= i64::try_from(jobs.len()).unwrap();
        } else {
            tx.commit().await.unwrap();
        }
        if random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..3000))).await;
        }
    }
    next
}

/// Claims and ends, sometimes in two calls at once, sometimes to be made again.
async fn work_on(
    queue: Arc<dyn JobQueue>,
    over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    seed: u64,
) -> Vec<(u32, i64)> {
    let mut random = StdRng::seed_from_u64(seed);
    let worker = worker(&*queue).await;
    let mut done = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let batches = queue.claim(worker, &request(2)).await.unwrap();
        let mut all = Vec::new();
        for one in batches.iter().flat_map(|batch| &batch.jobs) {
            if random.random_bool(0.05) {
                all.push(ended(
                    one,
                    again(one, Duration::from_millis(random.random_range(0..3))),
                ));
            } else {
                all.push(ended(one, JobOutcome::Completed));
            }
        }
        // What follows one that is to be made again was not worked on.
        all.dedup_by(|later, one| {
            later.job.lane == one.job.lane && !matches!(one.outcome, JobOutcome::Completed)
        });
        let sink = RecordedDeadLetters::default();
        let (one, other) = all.split_at(random.random_range(0..=all.len()));
        let refused = tokio::join!(
            queue.finish(worker, one, &sink),
            queue.finish(worker, other, &sink)
        );
        // Two at once may come in any order, so the later part of a batch may be released by the
        // earlier one's being made again.
        let refused = [refused.0.unwrap(), refused.1.unwrap()].concat();
        for one in all {
            if matches!(one.outcome, JobOutcome::Completed) && !refused.contains(&one.claim) {
                done.push((one.job.lane.hash, one.job.log_id));
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    queue.deregister(worker).await.unwrap();
    done
}

/// Moves jobs about and cancels some, as `keep` and people do.
async fn stir(
    fixture_url: String,
    queue: Arc<dyn JobQueue>,
    over: Arc<AtomicBool>,
    seed: u64,
) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let pool = testkit::database::lazy_pool(&fixture_url, 2);
    let mut cancelled = 0;
    while !over.load(Ordering::Relaxed) {
        let slot = random.random_range(0..4);
        sqlx::query("select observer.relocate_jobs(s.n, 100) from (select $1::integer as n) s, observer.job_partition_state h where h.partition_no <> s.n")
            .bind(slot)
            .execute(&pool)
            .await
            .unwrap();
        if random.random_bool(0.02) {
            queue.run_maintenance().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        if random.random_bool(0.1) {
            let (jobs, _) = queue.list(&JobFilter::default(), 50).await.unwrap();
            let ids = jobs
                .into_iter()
                .filter(|_| random.random_bool(0.3))
                .map(|one| one.id);
            let some = JobFilter {
                ids: Some(ids.collect()),
                ..JobFilter::default()
            };
            cancelled += queue.cancel(&some).await.unwrap();
        }
    }
    cancelled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lane_stalls() {
    let seed = seed();
    let fixture: Postgres = own().await;
    let over = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for number in 0..4 {
        let queue = fixture.open(LISTENER, CALM).await;
        let seed = seed.wrapping_add(number);
        workers.spawn(work_on(queue, over.clone(), count.clone(), seed));
    }
    let queue = fixture.with_small_partitions(LISTENER, CALM);
    let stirring = tokio::spawn(stir(fixture.url.clone(), queue.clone(), over.clone(), seed));
    let adding = tokio::spawn(add_on(
        queue.clone(),
        fixture.pool.clone(),
        over.clone(),
        !seed,
    ));
    let enough = rounds(DONE.0, DONE.1);
    amounts_to("jobs done by the crew", enough.into(), async || {
        count.load(Ordering::Relaxed)
    })
    .await;
    over.store(true, Ordering::Relaxed);
    let added = adding.await.unwrap();
    let cancelled = stirring.await.unwrap();
    let mut done: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    while let Some(some) = workers.join_next().await {
        for (hash, log_id) in some.unwrap() {
            done.entry(hash).or_default().push(log_id);
        }
    }
    let asleep: i64 = sqlx::query_scalar(ASLEEP)
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(asleep, 0, "seed {seed}");
    let before: usize = done.values().map(Vec::len).sum();
    let last = worker(&*queue).await;
    let left = eventually("the rest is done", async || {
        let mut rest = Vec::new();
        for batch in queue.claim(last, &request(8)).await.unwrap() {
            rest.extend(
                batch
                    .jobs
                    .iter()
                    .map(|one| ended(one, JobOutcome::Completed)),
            );
        }
        queue
            .finish(last, &rest, &RecordedDeadLetters::default())
            .await
            .unwrap();
        queue.is_empty().await.unwrap().then_some(())
    });
    left.await;
    println!("{added} added, {before} done by the workers, {cancelled} cancelled");
    for (hash, all) in &mut done {
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(
            all.len(),
            count,
            "lane {hash}: none is done twice, seed {seed}"
        );
    }
}

#[tokio::test]
async fn enqueue_and_completion_of_a_lane_wait_for_each_other() {
    let fixture: Postgres = own().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, &fixture.pool, &[job(&lane(1), 1)]).await;
    let batches = queue.claim(worker, &request(1)).await.unwrap();
    let end = [ended(&batches[0].jobs[0], JobOutcome::Completed)];

    // Added first, seen by nobody yet, when the end comes.
    let mut tx = fixture.pool.begin().await.unwrap();
    queue.enqueue(&mut tx, &[job(&lane(1), 2)]).await.unwrap();
    let outcome = tokio::spawn({
        let queue = queue.clone();
        async move {
            queue
                .finish(worker, &end, &RecordedDeadLetters::default())
                .await
        }
    });
    fixture.until_somebody_waits().await;
    tx.commit().await.unwrap();
    assert_eq!(outcome.await.unwrap().unwrap(), []);
    let batches = queue.claim(worker, &request(1)).await.unwrap();
    assert_eq!(batches[0].jobs[0].job.log_id, 2);

    // FinishedClaim first, seen by nobody yet, when one more comes.
    let mut tx = fixture.pool.begin().await.unwrap();
    sqlx::query("delete from observer.job")
        .execute(&mut *tx)
        .await
        .unwrap();
    let adding = tokio::spawn({
        let (queue, pool) = (queue.clone(), fixture.pool.clone());
        async move { add(&*queue, &pool, &[job(&lane(1), 3)]).await }
    });
    fixture.until_somebody_waits().await;
    tx.commit().await.unwrap();
    adding.await.unwrap();
    let batches = queue.claim(worker, &request(1)).await.unwrap();
    assert_eq!(batches[0].jobs[0].job.log_id, 3);
}
