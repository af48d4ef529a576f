//! What is lost on the way or on the server, and comes again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::redis::AsyncCommands;
use observer_queue::redis::{Durability, OpenError, RedisQueue};
use observer_queue::{JobQueue, QueueConfig, QueueError, WorkerId};
use redis_connection::{RedisEndpoint, SentinelLogin, Topology};
use testkit::servers::redis::{Fsync, Options, PrivateRedis};
use testkit::servers::redis_groups::{ClusterGroup, MASTER_NAME, SentinelGroup};
use tokio::time::Instant;

use super::{inspect, own, start};
use crate::support::builders::{add, complete_all, complete_batch, job, lane, request, worker};
use crate::support::database;
use crate::support::faulty_workers::{FaultRates, FaultyWorkers};
use crate::support::{CALM, Fixture, LISTENER, STALLED, eventually, seed};
use testkit::wait::Patience;

/// Jobs of lanes 0 to 9, in turn.
fn jobs(from: i64, to: i64) -> Vec<observer_queue::NewJob> {
    (from..to)
        .map(|n| job(&lane(u32::try_from(n % 10).unwrap()), n / 10))
        .collect()
}

#[tokio::test]
async fn lost_consumer_group_is_created_again() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &jobs(0, 10)).await;
    assert_eq!(
        complete_batch(&*queue, worker, &request(3)).await,
        [0, 0, 0]
    );
    let mut connection = fixture.connection().await;
    for stream in inspect::streams(&mut connection).await {
        let gone: bool =
            inspect::command(&mut connection, &["XGROUP", "DESTROY", &stream, "workers"]).await;
        assert!(gone);
    }
    assert_eq!(complete_batch(&*queue, worker, &request(8)).await, [0; 7]);
    queue.run_maintenance().await.unwrap();
    assert!(queue.is_empty().await.unwrap());
    inspect::is_bare(&mut connection).await;
}

#[tokio::test]
async fn consumer_group_past_its_entries_is_set_back() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &jobs(0, 10)).await;
    let mut connection = fixture.connection().await;
    for stream in inspect::streams(&mut connection).await {
        let _: bool =
            inspect::command(&mut connection, &["XGROUP", "DESTROY", &stream, "workers"]).await;
        let _: String = inspect::command(
            &mut connection,
            &["XGROUP", "CREATE", &stream, "workers", "$"],
        )
        .await;
    }
    assert_eq!(complete_batch(&*queue, worker, &request(16)).await, [0; 10]);
}

#[tokio::test]
async fn lost_streams_are_rebuilt() {
    // More than one step of the search for them sees to.
    const MANY: i64 = 2500;
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &jobs(0, MANY)).await;
    let mut connection = fixture.connection().await;
    for stream in inspect::streams(&mut connection).await {
        let _: u32 = connection.del(&stream).await.unwrap();
    }
    assert_eq!(
        complete_batch(&*queue, worker, &request(16)).await,
        [0_i64; 0]
    );
    queue.run_maintenance().await.unwrap();
    inspect::agree(&mut connection, &*queue).await;
    let all = complete_all(&*queue, worker, &request(16)).await;
    assert_eq!(all.len(), usize::try_from(MANY).unwrap());
    inspect::is_bare(&mut connection).await;
}

#[tokio::test]
async fn all_indexes_are_rebuilt() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let mut delayed = job(&lane(100), 0);
    delayed.delay = Duration::from_millis(1);
    let mut new = jobs(0, 200);
    new.push(delayed);
    add(&*queue, fixture.pool(), &new).await;
    let mut connection = fixture.connection().await;
    for key in inspect::keys(&mut connection).await {
        if ["ready:", "tenant_rotation:", "action_rotation:", "delayed"]
            .iter()
            .any(|kind| key.starts_with(kind))
        {
            let _: u32 = connection
                .del(format!("{}{key}", inspect::prefix()))
                .await
                .unwrap();
        }
    }
    let done = std::sync::atomic::AtomicUsize::new(0);
    eventually("all jobs done", async || {
        queue.run_maintenance().await.unwrap();
        let some = complete_batch(&*queue, worker, &request(16)).await.len();
        let before = done.fetch_add(some, std::sync::atomic::Ordering::Relaxed);
        (before + some == 201).then_some(())
    })
    .await;
    inspect::is_bare(&mut connection).await;
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again() {
    let fixture = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let mut connection = fixture.connection().await;
    for n in 0..3 {
        let _: String = ::redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query_async(&mut connection)
            .await
            .unwrap();
        add(&*queue, fixture.pool(), &[job(&lane(1), n)]).await;
        assert_eq!(complete_batch(&*queue, worker, &request(1)).await, [n]);
        queue.run_maintenance().await.unwrap();
    }
}

/// Adds jobs until told, each until it is acknowledged; workers work meanwhile. All that
/// were acknowledged are done in the order of their lanes, with any fault of the server.
///
/// No lease passes while the server is away: the crew could not tell an end that was accepted, and
/// its answer lost, from one that was refused because another has the job.
async fn under_load(
    fixture: &super::Redis,
    lease: Duration,
    dies: f64,
    trouble: impl AsyncFn(&FaultyWorkers),
) {
    let seed = seed();
    let config = QueueConfig { lease, ..CALM };
    let queue = fixture.open(LISTENER, config).await;
    let faults = FaultRates {
        fails: 0.02,
        dies,
        falters: 0.0,
    };
    let mut workers = FaultyWorkers::default();
    for n in 0..4 {
        workers.start(
            fixture.open(LISTENER, config).await,
            lease,
            faults,
            seed.wrapping_add(n),
        );
    }
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let adding = tokio::spawn({
        let (queue, pool, ended) = (queue.clone(), fixture.pool().clone(), ended.clone());
        async move {
            let mut added = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let new = jobs(added, added + 50);
                let mut patience = Patience::default();
                loop {
                    let mut tx = pool.begin().await.unwrap();
                    match queue.enqueue(&mut tx, &new).await {
                        Ok(()) => break,
                        Err(error) => assert!(patience.lasts(), "cannot be added: {error}"),
                    }
                }
                added += 50;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            added
        }
    });
    trouble(&workers).await;
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    let added = adding.await.unwrap();
    workers.empties(&*queue).await;
    let told = workers.end().await;
    println!("{added} added; {told}");
    // Order is judged by the crew as batches begin: where an answer was lost, an end is noted late.
    for (lane, of) in &told.ended {
        let done: BTreeSet<i64> = of.iter().copied().collect();
        let all = done.into_iter().eq(0..added / 10);
        assert!(all, "lane {lane} of {added} added, seed {seed}: {of:?}");
    }
    assert_eq!(
        told.ended.len(),
        10,
        "lanes with jobs that ended, seed {seed}"
    );
    let mut connection = fixture.connection().await;
    queue.run_maintenance().await.unwrap();
    inspect::agree(&mut connection, &*queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_crash_under_load_loses_nothing() {
    let fixture = own().await;
    under_load(&fixture, Duration::from_secs(10), 0.001, async |workers| {
        for _ in 0..3 {
            workers.gets_on(500).await;
            fixture.crash().await;
            fixture.resume().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_ten_seconds_loses_nothing() {
    let fixture = own().await;
    under_load(&fixture, STALLED * 2, 0.0, async |workers| {
        workers.gets_on(300).await;
        fixture.stop().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        fixture.resume().await;
        workers.gets_on(300).await;
    })
    .await;
}

#[tokio::test]
async fn calls_time_out_while_the_server_is_down_or_hangs() {
    let fixture = own().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let mut connection = fixture.connection().await;
    let _: String = ::redis::cmd("CLIENT")
        .arg(&["PAUSE", "3600000", "ALL"])
        .query_async(&mut connection)
        .await
        .unwrap();
    ends_in_time(&*queue, worker).await;
    fixture.crash().await;
    ends_in_time(&*queue, worker).await;
    fixture.resume().await;
    eventually("an answer", async || queue.heartbeat(worker).await.ok()).await;
}

/// A call fails as soon as it has to. Time is paused meanwhile: it moves on by what the call waits
/// for, and not by what a busy machine takes.
async fn ends_in_time(queue: &dyn JobQueue, worker: WorkerId) {
    tokio::time::pause();
    let begun = Instant::now();
    let answer = queue.heartbeat(worker).await;
    let took = begun.elapsed();
    tokio::time::resume();
    assert!(matches!(answer, Err(QueueError::Redis(_))), "{answer:?}");
    assert!(took <= RedisQueue::CALL_TIMEOUT * 2, "{took:?}");
}

#[tokio::test]
async fn durability_is_read_when_the_queue_is_opened() {
    for (fsync, told) in [
        (Fsync::Always, Durability::Always),
        (Fsync::EverySecond, Durability::EverySecond),
        (Fsync::System, Durability::System),
        (Fsync::Off, Durability::None),
    ] {
        let options = Options {
            fsync,
            ..Options::default()
        };
        let server = PrivateRedis::start(&options).await.unwrap();
        let pool = testkit::database::lazy_pool("postgres://nowhere/", 1);
        let queue = RedisQueue::open(
            &RedisEndpoint::standalone(server.url()),
            LISTENER,
            pool,
            CALM,
        )
        .await;
        assert_eq!(queue.unwrap().durability(), told);
    }
}

#[tokio::test]
async fn server_that_evicts_keys_is_rejected() {
    let options = Options {
        settings: vec!["maxmemory-policy allkeys-lru".to_owned()],
        ..Options::default()
    };
    let server = PrivateRedis::start(&options).await.unwrap();
    let pool = testkit::database::lazy_pool("postgres://nowhere/", 1);
    let refused = RedisQueue::open(
        &RedisEndpoint::standalone(server.url()),
        LISTENER,
        pool.clone(),
        CALM,
    )
    .await;
    assert!(matches!(refused, Err(OpenError::Evicts(policy)) if policy == "allkeys-lru"));
    let nowhere = RedisQueue::open(
        &RedisEndpoint::standalone("http://secret@nowhere"),
        LISTENER,
        pool,
        CALM,
    )
    .await;
    let error = nowhere.unwrap_err();
    assert!(matches!(error, OpenError::Address(_)), "{error}");
    assert!(!error.to_string().contains("secret"));
}

/// Jobs of a queue whose server is replaced by its replica, which has all.
async fn jobs_survive_a_failover(endpoint: &RedisEndpoint, fail_over: impl AsyncFnOnce()) {
    let db = database::database().await;
    let queue = RedisQueue::open(endpoint, LISTENER, db.pool.clone(), CALM)
        .await
        .unwrap();
    let worker = worker(&queue).await;
    add(&queue, &db.pool, &jobs(0, 200)).await;
    let before = complete_batch(&queue, worker, &request(8)).await.len();
    fail_over().await;
    // A job that is added twice is one.
    let more = jobs(200, 220);
    eventually("the queue accepts jobs", async || {
        let mut connection = db.pool.acquire().await.unwrap();
        queue.enqueue(&mut connection, &more).await.ok()
    })
    .await;
    let after = complete_all(&queue, worker, &request(16)).await.len();
    assert_eq!(before + after, 220, "each once");
    assert!(queue.is_empty().await.unwrap());
}

#[tokio::test]
async fn jobs_survive_a_failover_in_a_cluster() {
    let cluster = ClusterGroup::start().await.unwrap();
    let endpoint = RedisEndpoint {
        topology: Topology::Cluster,
        ..RedisEndpoint::standalone(cluster.url())
    };
    jobs_survive_a_failover(&endpoint, async || {
        let master = cluster.master_of(&format!("{{{LISTENER}}}")).await.unwrap();
        cluster.replicas_have_all(master).await;
        master.crash().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn jobs_survive_a_failover_behind_a_sentinel() {
    let group = SentinelGroup::start().await.unwrap();
    let endpoint = RedisEndpoint {
        topology: Topology::Sentinel {
            master_name: MASTER_NAME.to_owned(),
            login: SentinelLogin {
                username: None,
                password: Some(group.password().to_owned()),
            },
        },
        ..RedisEndpoint::standalone(group.url())
    };
    jobs_survive_a_failover(&endpoint, async || {
        group.replica_has_all().await;
        group.first.crash().await.unwrap();
    })
    .await;
}
