//! Steps that are broken off between any two commands, and repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::redis::AsyncCommands;
use async_trait::async_trait;
use observer_queue::redis::{MAX_REMEMBERED_IDS, REMEMBER_IDS_FOR};
use observer_queue::{
    DeadLetterSink, FinishedClaim, HeartbeatResponse, JobFilter, JobOutcome, JobQueue, LaneBatch,
    WorkerId,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgConnection;
use testkit::soak::rounds;
use testkit::wait::Patience;
use uuid::Uuid;

use super::{inspect, own, start};
use crate::support::builders::{
    RecordedDeadLetters, add, again, complete_batch, ended, job, json, lane, request, worker,
};
use crate::support::{CALM, Fixture, HASTY, LISTENER, eventually, seed};

#[tokio::test]
async fn repeated_job_is_added_once() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let new: Vec<_> = (0..600).map(|n| job(&lane(1), n)).collect();
    // As it is after a crash between two parts of one call.
    add(&*queue, fixture.pool(), &new[..256]).await;
    add(&*queue, fixture.pool(), &new).await;
    assert_eq!(queue.list(&JobFilter::default(), 1).await.unwrap().1, 600);
    let mut all = Vec::new();
    while !queue.is_empty().await.unwrap() {
        all.extend(complete_batch(&*queue, worker, &request(1)).await);
        add(&*queue, fixture.pool(), &new[..100]).await;
    }
    assert_eq!(all, (0..600).collect::<Vec<_>>());
    add(&*queue, fixture.pool(), &new).await;
    assert!(queue.is_empty().await.unwrap());
    inspect::is_bare(&mut fixture.connection().await).await;
}

#[tokio::test]
async fn remembered_ids_are_bounded_in_time_and_number() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let mut connection = fixture.connection().await;
    let (seconds, micros): (u64, u64) = ::redis::cmd("TIME")
        .query_async(&mut connection)
        .await
        .unwrap();
    let now = seconds * 1_000_000 + micros;
    let recent = format!("{}recent_ids", inspect::prefix());
    let old = now - u64::try_from(REMEMBER_IDS_FOR.as_micros()).unwrap() - 1;
    let mut ids: Vec<(u64, String)> = (0..500).map(|n| (old, format!("old-{n}"))).collect();
    let surplus = u64::try_from(MAX_REMEMBERED_IDS).unwrap() + 300;
    ids.extend((0..surplus).map(|n| (now + n, format!("new-{n}"))));
    for part in ids.chunks(10_000) {
        let _: u64 = connection.zadd_multiple(&recent, part).await.unwrap();
    }
    queue.run_maintenance().await.unwrap();
    let left: usize = connection.zcard(&recent).await.unwrap();
    assert_eq!(left, MAX_REMEMBERED_IDS);
    let first: Vec<String> = connection.zrange(&recent, 0, 0).await.unwrap();
    assert_eq!(first, ["new-300"]);
}

/// Fails once: before it writes, or after it has, by taking the server away.
struct FlakySink<'a> {
    sink: RecordedDeadLetters,
    fixture: Option<&'a super::Redis>,
    has_failed: AtomicBool,
}

#[async_trait]
impl DeadLetterSink for FlakySink<'_> {
    async fn write(
        &self,
        tx: &mut PgConnection,
        dead: &[&FinishedClaim],
    ) -> Result<(), sqlx::Error> {
        let first = !self.has_failed.swap(true, Ordering::Relaxed);
        match self.fixture {
            None if first => return Err(sqlx::Error::WorkerCrashed),
            Some(fixture) if first => fixture.crash().await,
            _ => {}
        }
        self.sink.write(tx, dead).await
    }
}

#[tokio::test]
async fn failed_dead_letter_write_keeps_the_claim() {
    for away in [false, true] {
        let fixture = own().await;
        let queue = fixture.open(LISTENER, CALM).await;
        let worker = worker(&*queue).await;
        add(&*queue, fixture.pool(), &[job(&lane(1), 0)]).await;
        let batches = queue.claim(worker, &request(1)).await.unwrap();
        let claimed = &batches[0].jobs[0];
        let dead = JobOutcome::Discarded {
            attempts: 1,
            history: json("[]"),
        };
        let all = [ended(claimed, dead)];
        let sink = FlakySink {
            sink: RecordedDeadLetters::default(),
            fixture: away.then_some(&fixture),
            has_failed: AtomicBool::new(false),
        };
        queue.finish(worker, &all, &sink).await.unwrap_err();
        if away {
            fixture.resume().await;
        }
        let refused = eventually("an answer", async || {
            queue.finish(worker, &all, &sink).await.ok()
        })
        .await;
        assert_eq!(refused, []);
        // Once more where it was written before the server went; writing it again changes nothing.
        let buried = sink.sink.0.lock().unwrap().len();
        assert_eq!(buried, if away { 2 } else { 1 });
        assert!(queue.is_empty().await.unwrap());
    }
}

#[tokio::test]
async fn jobs_of_an_unconfirmed_claim_are_returned() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let new: Vec<_> = (0..20).map(|n| job(&lane(n), 0)).collect();
    add(&*queue, fixture.pool(), &new).await;
    let random = &mut StdRng::seed_from_u64(seed());
    let mut lost = 0;
    for _ in 0..200 {
        let limit = Duration::from_micros(random.random_range(0..12_000));
        match tokio::time::timeout(limit, queue.claim(worker, &request(20))).await {
            Err(_) => lost += 1,
            Ok(batches) => {
                let batches = batches.unwrap();
                assert_eq!(batches.len(), 20, "some are held by nobody");
                let jobs = batches.iter().flat_map(|batch| &batch.jobs);
                let all: Vec<_> = jobs.map(|one| ended(one, JobOutcome::Released)).collect();
                let sink = RecordedDeadLetters::default();
                assert_eq!(queue.finish(worker, &all, &sink).await.unwrap(), []);
            }
        }
    }
    println!("{lost} answers lost");
    assert_eq!(
        complete_batch(&*queue, worker, &request(20)).await.len(),
        20
    );
    inspect::is_bare(&mut fixture.connection().await).await;
}

/// When calls are broken off: at any moment of the time that they take. Each one in a row leaves the
/// next more time, so that on a machine of any speed some get through.
#[derive(Default)]
struct Limit(u32);

impl Limit {
    fn draw(&self, random: &mut StdRng) -> Duration {
        Duration::from_micros(random.random_range(0..4000 * u64::from(self.0 + 1)))
    }

    fn note(&mut self, broken_off: bool) {
        self.0 = if broken_off { self.0 + 1 } else { 0 };
    }
}

/// One process whose calls are broken off at random, and the model of its lanes.
struct CancellingWorker {
    queue: Arc<dyn JobQueue>,
    worker: WorkerId,
    held: Vec<LaneBatch>,
    limit: Limit,
    broken_off: usize,
    done: BTreeMap<u32, Vec<i64>>,
}

macro_rules! cancel_at_random {
    ($canceller:expr, $random:expr, $call:expr) => {{
        let limit = $canceller.limit.draw($random);
        let answer = tokio::time::timeout(limit, $call).await;
        $canceller.limit.note(answer.is_err());
        if answer.is_err() {
            $canceller.broken_off += 1;
        }
        answer.ok().map(Result::unwrap)
    }};
}

impl CancellingWorker {
    async fn step(&mut self, random: &mut StdRng) {
        let queue = self.queue.clone();
        match random.random_range(0..10) {
            0 => drop(cancel_at_random!(self, random, queue.run_maintenance())),
            1 => self.send_heartbeat(random).await,
            2 => {
                cancel_at_random!(self, random, queue.deregister(self.worker));
                self.restart();
            }
            3..6 => {
                if let Some(batches) =
                    cancel_at_random!(self, random, queue.claim(self.worker, &request(2)))
                {
                    self.held.extend(batches);
                }
            }
            _ => self.finish_one(random).await,
        }
    }

    fn restart(&mut self) {
        self.worker = WorkerId(Uuid::new_v4());
        self.held.clear();
    }

    async fn send_heartbeat(&mut self, random: &mut StdRng) {
        let queue = self.queue.clone();
        match cancel_at_random!(self, random, queue.heartbeat(self.worker)) {
            None | Some(HeartbeatResponse::Renewed { .. }) => {}
            Some(HeartbeatResponse::Expired) => {
                self.restart();
                cancel_at_random!(self, random, queue.register(self.worker, "canceller"));
            }
        }
    }

    async fn finish_one(&mut self, random: &mut StdRng) {
        let Some(batch) = self.held.pop() else { return };
        let fails = random.random_bool(0.2);
        let outcome = |n, one| match n {
            0 if fails => again(one, Duration::from_millis(1)),
            0 => JobOutcome::Completed,
            _ => JobOutcome::Released,
        };
        let all: Vec<_> = batch
            .jobs
            .iter()
            .enumerate()
            .map(|(n, one)| ended(one, outcome(n, one)))
            .collect();
        let queue = self.queue.clone();
        let sink = RecordedDeadLetters::default();
        let refused = cancel_at_random!(self, random, queue.finish(self.worker, &all, &sink));
        if !fails && refused.is_none_or(|refused| !refused.contains(&all[0].claim)) {
            let of = self.done.entry(all[0].job.lane.hash).or_default();
            of.push(all[0].job.log_id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_safe_to_cancel() {
    const LANES: u32 = 8;
    const JOBS: i64 = 40;
    let seed = seed();
    let fixture = start().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut all: Vec<CancellingWorker> = Vec::new();
    for _ in 0..3 {
        let queue = fixture.open(LISTENER, HASTY).await;
        let worker = worker(&*queue).await;
        all.push(CancellingWorker {
            queue,
            worker,
            held: Vec::new(),
            limit: Limit::default(),
            broken_off: 0,
            done: BTreeMap::new(),
        });
    }
    let queue = fixture.open(LISTENER, HASTY).await;
    for n in 0..JOBS {
        let new: Vec<_> = (0..LANES).map(|hash| job(&lane(hash), n)).collect();
        // Until it is acknowledged, as a checkpoint does.
        let mut limit = Limit::default();
        let mut patience = Patience::default();
        loop {
            let mut tx = fixture.pool().begin().await.unwrap();
            let adding = queue.enqueue(&mut tx, &new);
            let added = tokio::time::timeout(limit.draw(&mut random), adding).await;
            if matches!(added, Ok(Ok(()))) {
                break;
            }
            limit.note(true);
            assert!(patience.lasts(), "cannot be added, seed {seed}: {added:?}");
        }
        for canceller in &mut all {
            for _ in 0..4 {
                canceller.step(&mut random).await;
            }
        }
    }
    let (mut patience, mut before) = (Patience::default(), 0);
    while !queue.is_empty().await.unwrap() {
        let (_, left) = queue.list(&JobFilter::default(), 1).await.unwrap();
        if left != before {
            (patience, before) = (Patience::default(), left);
        }
        assert!(patience.lasts(), "{left} jobs are stuck, seed {seed}");
        for canceller in &mut all {
            canceller.step(&mut random).await;
        }
    }
    let broken_off: usize = all.iter().map(|canceller| canceller.broken_off).sum();
    println!("{broken_off} calls broken off");
    for hash in 0..LANES {
        let done: Vec<i64> = all
            .iter()
            .flat_map(|canceller| canceller.done.get(&hash).cloned().unwrap_or_default())
            .collect();
        for n in 0..JOBS {
            assert!(
                done.contains(&n),
                "{n} of lane {hash} was never done, seed {seed}"
            );
        }
    }
    for canceller in &all {
        for done in canceller.done.values() {
            assert!(done.is_sorted(), "seed {seed}: {done:?}");
        }
        queue.deregister(canceller.worker).await.unwrap();
    }
    let mut connection = fixture.connection().await;
    inspect::agree(&mut connection, &*queue).await;
    eventually("no worker holds anything", async || {
        queue.run_maintenance().await.unwrap();
        let workers: usize = fixture
            .connection()
            .await
            .zcard(format!("{}workers", inspect::prefix()))
            .await
            .unwrap();
        (workers == 0).then_some(())
    })
    .await;
    inspect::is_bare(&mut connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_agree_with_the_jobs() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let random = &mut StdRng::seed_from_u64(seed());
    let mut connection = fixture.connection().await;
    for round in 0..rounds(20, 100) {
        let new: Vec<_> = (0..20)
            .map(|_| {
                let mut new = job(
                    &lane(random.random_range(0..12)),
                    random.random_range(0..i64::MAX),
                );
                new.delay = Duration::from_millis(random.random_range(0..3));
                new.attempts = random.random_range(0..10);
                new.job.tenant = random.random_bool(0.5).then(|| "acme".to_owned());
                new
            })
            .collect();
        add(&*queue, fixture.pool(), &new).await;
        let batches = queue.claim(worker, &request(4)).await.unwrap();
        for batch in &batches {
            let last = random.random_range(0..batch.jobs.len());
            let all: Vec<_> = batch.jobs[..=last]
                .iter()
                .enumerate()
                .map(|(n, one)| match n == last {
                    true if round % 2 == 0 => ended(one, again(one, Duration::from_millis(2))),
                    true => ended(one, JobOutcome::Released),
                    false => ended(one, JobOutcome::Completed),
                })
                .collect();
            assert_eq!(
                queue
                    .finish(worker, &all, &RecordedDeadLetters::default())
                    .await
                    .unwrap(),
                []
            );
        }
        if round % 5 == 0 {
            let (shown, _) = queue.list(&JobFilter::default(), 3).await.unwrap();
            let ids = shown.into_iter().map(|one| one.id).collect();
            let what = JobFilter {
                ids: Some(ids),
                ..JobFilter::default()
            };
            queue.cancel(&what).await.unwrap();
        }
        inspect::agree(&mut connection, &*queue).await;
    }
}

/// Prints how fast it is; judges nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_of_redis() {
    let jobs = rounds(4000, 20_000);
    let fixture = own().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let new: Vec<_> = (0..jobs).map(|n| job(&lane(n), 0)).collect();
    let before = Instant::now();
    for part in new.chunks(500) {
        add(&*queue, fixture.pool(), part).await;
    }
    let added = before.elapsed();
    let before = Instant::now();
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let queue = fixture.open(LISTENER, CALM).await;
        let done = done.clone();
        workers.spawn(async move {
            let worker = worker(&*queue).await;
            loop {
                let some = complete_batch(&*queue, worker, &request(500)).await.len();
                if some == 0 {
                    break;
                }
                done.fetch_add(some, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), usize::try_from(jobs).unwrap());
    let rate = |took: Duration| f64::from(jobs) / took.as_secs_f64();
    println!(
        "{jobs} jobs, batches of 500: {:.0}/s added, {:.0}/s claimed and ended by 4 workers",
        rate(added),
        rate(before.elapsed())
    );
    let mut connection = fixture.connection().await;
    let spent: String = inspect::command(&mut connection, &["INFO", "commandstats"]).await;
    let scripts = spent
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha"));
    println!("{}", scripts.unwrap_or_default());
}
