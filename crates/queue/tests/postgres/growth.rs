//! Size and effort over time: with an old snapshot held open, and with many jobs that wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use observer_queue::postgres::PostgresQueue;
use observer_queue::{JobOutcome, JobQueue, WorkerId};
use sqlx::PgPool;
use testkit::database::lazy_pool;
use testkit::soak::rounds;

use super::{Postgres, own, start};
use crate::support::builders::{RecordedDeadLetters, add, ended, job, lane, request, worker};
use crate::support::{CALM, Fixture, LISTENER};

/// Jobs of one round.
const BATCH: usize = 500;

async fn claim_and_finish(
    queue: &dyn JobQueue,
    worker: WorkerId,
    batches: usize,
) -> (Duration, Duration, usize) {
    let begun = Instant::now();
    let batches = queue.claim(worker, &request(batches)).await.unwrap();
    let claimed = begun.elapsed();
    let jobs = batches.iter().flat_map(|batch| &batch.jobs);
    let all: Vec<_> = jobs.map(|one| ended(one, JobOutcome::Completed)).collect();
    let begun = Instant::now();
    queue
        .finish(worker, &all, &RecordedDeadLetters::default())
        .await
        .unwrap();
    (claimed, begun.elapsed(), all.len())
}

async fn fill(
    queue: &dyn JobQueue,
    fixture: &Postgres,
    from: usize,
    some: usize,
    wait: Duration,
) -> Duration {
    let jobs: Vec<_> = (from..from + some)
        .map(|n| {
            let mut new = job(&lane(u32::try_from(n).unwrap()), i64::try_from(n).unwrap());
            new.delay = wait;
            new
        })
        .collect();
    let begun = Instant::now();
    add(queue, &fixture.pool, &jobs).await;
    begun.elapsed()
}

async fn size(fixture: &Postgres) -> i64 {
    sqlx::query_scalar(
        "select sum(pg_total_relation_size(inhrelid))::bigint from pg_inherits
         where inhparent = 'observer.job'::regclass",
    )
    .fetch_one(&fixture.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_snapshot_does_not_bloat_the_queue() {
    const ROUNDS: usize = 30;
    let fixture: Postgres = own().await;
    let mut old = fixture.pool.begin().await.unwrap();
    sqlx::query("set transaction isolation level repeatable read")
        .execute(&mut *old)
        .await
        .unwrap();
    sqlx::query("select txid_current_snapshot()::text")
        .fetch_one(&mut *old)
        .await
        .unwrap();
    let queue = fixture.with_partition_bytes(LISTENER, CALM, 1024 * 1024);
    let worker = worker(&*queue).await;
    // One that stays, so that its slot is never without a job unless it is moved.
    fill(&*queue, &fixture, 0, 1, Duration::from_hours(1)).await;
    let (mut sizes, mut claims) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        fill(&*queue, &fixture, 1 + round * BATCH, BATCH, Duration::ZERO).await;
        let (claim, _, some) = claim_and_finish(&*queue, worker, BATCH).await;
        assert_eq!(some, BATCH);
        claims.push(claim);
        queue.run_maintenance().await.unwrap();
        sizes.push(size(&fixture).await);
    }
    let half = ROUNDS / 2;
    let (early, late) = (
        sizes[..half].iter().max().unwrap(),
        sizes[half..].iter().max().unwrap(),
    );
    claims.sort_unstable();
    println!(
        "old snapshot: {} jobs; size at most {early} bytes in the first half, {late} in the second; \
         claim of {BATCH}: median {:?}, worst {:?}",
        ROUNDS * BATCH,
        claims[ROUNDS / 2],
        claims[ROUNDS - 1]
    );
    // What only grows would be twice as large in the end as in the middle.
    assert!(late * 2 < early * 3, "{sizes:?}");
    old.rollback().await.unwrap();
}

/// Pages of the database that all its connections have looked at so far. Those of `pool` are counted up
/// to now, which others may be later.
async fn pages(pool: &PgPool) -> i64 {
    sqlx::query("select pg_stat_force_next_flush()")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query_scalar(
        "select blks_hit + blks_read from pg_stat_database where datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_jobs_do_not_slow_claims() {
    const ROUNDS: usize = 11;
    let many: usize = std::env::var("OBSERVER_TEST_WAITING")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| rounds(30_000, 100_000) as usize);
    let fixture: Postgres = start().await;
    // The only connection, so that what it has looked at is counted when it is asked.
    let pool = lazy_pool(&fixture.url, 1);
    let queue: Arc<dyn JobQueue> = Arc::new(PostgresQueue::new(pool.clone(), LISTENER, CALM));
    let worker = worker(&*queue).await;
    let mut medians = Vec::new();
    for waiting in [0, many] {
        for from in (0..waiting).step_by(5000) {
            fill(
                &*queue,
                &fixture,
                1_000_000 + from,
                5000,
                Duration::from_hours(10),
            )
            .await;
            queue.run_maintenance().await.unwrap();
        }
        let (mut added, mut claims, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let mut looked = Vec::new();
        for round in 0..ROUNDS {
            added.push(fill(&*queue, &fixture, round * BATCH, BATCH, Duration::ZERO).await);
            let before = pages(&pool).await;
            let (claim, end, some) = claim_and_finish(&*queue, worker, BATCH).await;
            looked.push(pages(&pool).await - before);
            assert_eq!(some, BATCH);
            claims.push(claim);
            ends.push(end);
        }
        for all in [&mut added, &mut claims, &mut ends] {
            all.sort_unstable();
        }
        // Where the server vacuums meanwhile, that counts for a few.
        looked.sort_unstable();
        println!(
            "{waiting} wait: add {:?}, claim {:?}, finish {:?}, {} pages (medians of {BATCH})",
            added[ROUNDS / 2],
            claims[ROUNDS / 2],
            ends[ROUNDS / 2],
            looked[ROUNDS / 2]
        );
        medians.push(looked[ROUNDS / 2]);
    }
    assert!(
        medians[1] < medians[0] * 2,
        "pages that are looked at for {BATCH} jobs, with none and with {many} that wait: {medians:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "prints figures"]
async fn throughput() {
    const JOBS: usize = 20_000;
    let fixture: Postgres = own().await;
    for workers in [1, 4] {
        let queue = fixture.open(LISTENER, CALM).await;
        let begun = Instant::now();
        for from in (0..JOBS).step_by(BATCH) {
            fill(&*queue, &fixture, from, BATCH, Duration::ZERO).await;
        }
        let added = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..workers {
            let queue = fixture.open(LISTENER, CALM).await;
            all.spawn(async move {
                let worker = worker(&*queue).await;
                let mut spent = (Duration::ZERO, Duration::ZERO);
                while !queue.is_empty().await.unwrap() {
                    let (claim, end, _) = claim_and_finish(&*queue, worker, BATCH).await;
                    spent.0 += claim;
                    spent.1 += end;
                }
                spent
            });
        }
        while let Some(spent) = all.join_next().await {
            println!("  spent claiming and finishing: {:?}", spent.unwrap());
        }
        let worked = begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let jobs = JOBS as f64;
        println!(
            "{workers} workers, batches of {BATCH}: {:.0} added a second, {:.0} claimed and finished a second",
            jobs / added,
            jobs / worked
        );
        queue.run_maintenance().await.unwrap();
    }
}
