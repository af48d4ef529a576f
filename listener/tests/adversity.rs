//! What may befall several processes of one listener besides being killed: their Leases are
//! deleted, their database crashes, they are paused for longer than a Lease, and all of that at
//! random.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use chrono::Utc;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::{AssertSqlSafe, PgPool};
use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::postgres::PrivateServer;

use crate::support::counters::all_in_order;
use crate::support::fleet::{
    LONG_LEASE, SHORT_LEASE, failover, files, median_and_most, shards, shared, taken_over,
};
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, ready};
use crate::support::writers::{Writers, make_table};
use crate::support::{database, eventually, eventually_or, own_server};
use testkit::seed::seed;

/// How many things happen at random.
const AT_RANDOM: usize = 18;

async fn delete_leases(pool: &PgPool, which: &str) -> u64 {
    let delete = AssertSqlSafe(format!("delete from observer.lease where {which}"));
    sqlx::query(delete)
        .execute(pool)
        .await
        .unwrap()
        .rows_affected()
}

/// Waits until something besides the Leases of the processes stands there again.
async fn stands(pool: &PgPool, what: &str, count: i64) {
    let sql = format!("select count(*) from observer.lease where {what}");
    let look = async || {
        let found = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.clone()));
        (found.fetch_one(pool).await.unwrap() == count).then_some(())
    };
    eventually_or(look, async || {
        let rows = "select name || ': ' || lease from observer.lease order by name";
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(pool).await.unwrap();
        format!("{count} Leases where {what}: {rows:#?}")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_deleted_by_hand_come_back() {
    let seed = seed();
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    // None but those that are deleted are to go.
    let configs: [Config; 2] = ["/0", "/1"].map(|path| files(&db.url, LONG_LEASE, &sink, path));
    let mut processes = configs.each_ref().map(Process::run);
    shared(&db.pool, 8, &processes.each_ref()).await;
    let writers = Writers::start(&db.url, 4, seed);

    let before = shards(&db.pool).await;
    assert_eq!(
        delete_leases(&db.pool, "name = 'test-shard-3-of-8'").await,
        1
    );
    stands(&db.pool, "name = 'test-shard-3-of-8'", 1).await;
    eventually("the shard is claimed again", async || {
        let now = shards(&db.pool).await;
        (now[3].claimed_at != before[3].claimed_at).then_some(())
    })
    .await;
    shared(&db.pool, 8, &processes.each_ref()).await;
    assert_eq!(
        shards(&db.pool).await[3].holder,
        before[3].holder,
        "by its owner"
    );

    let member = format!("name like '%-{}-%'", processes[0].pid());
    assert_eq!(delete_leases(&db.pool, &member).await, 1);
    processes[0].says("membership lost").await;
    stands(&db.pool, &member, 1).await;
    shared(&db.pool, 8, &processes.each_ref()).await;

    // Two members, eight shards, and the count of versions. One is paused meanwhile, so that it
    // sees nothing but what has come in their place.
    let all = Instant::now();
    processes[1].signal("STOP").await;
    assert!(delete_leases(&db.pool, "true").await >= 11);
    stands(&db.pool, "true", 10).await;
    processes[1].signal("CONT").await;
    stands(&db.pool, "true", 11).await;
    shared(&db.pool, 8, &processes.each_ref()).await;
    println!(
        "all Leases are back after {:.1} s",
        all.elapsed().as_secs_f64()
    );

    // While they are claimed again and what was written has not been seen by all.
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..20 {
        delete_leases(&db.pool, "true").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
    }
    stands(&db.pool, "true", 11).await;
    shared(&db.pool, 8, &processes.each_ref()).await;
    writers.stop().await;
    all_in_order(&db.pool, &sink).await;
    for process in processes {
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_under_three_processes_loses_nothing() {
    let seed = seed();
    let (server, pool) = own_server().await;
    make_table(&pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let url = server.url("postgres");
    let configs: [Config; 3] = ["/0", "/1", "/2"].map(|path| files(&url, LONG_LEASE, &sink, path));
    let processes = configs.each_ref().map(Process::run);
    shared(&pool, 8, &processes.each_ref()).await;
    let writers = Writers::start(&url, 4, seed);
    for crash in [true, false, true] {
        sink.arrived(sink.counts().requests + 100).await;
        if crash {
            server.crash().await.unwrap();
        } else {
            server.stop().await.unwrap();
        }
        server.resume().await.unwrap();
    }
    writers.stop().await;
    all_in_order(&pool, &sink).await;
    shared(&pool, 8, &processes.each_ref()).await;
    // It may be that one with nothing to do has not yet noticed the last crash.
    for process in processes {
        ended(process).await;
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_shard_notices_that_the_database_is_away() {
    let (server, pool) = own_server().await;
    make_table(&pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let spec = format!("{SHORT_LEASE}  shards: 1\n");
    let config = files(&server.url("postgres"), &spec, &sink, "/0");
    let addresses = [free_address(), free_address()];
    let processes = addresses
        .each_ref()
        .map(|address| Process::start(&["run", "--listen", address, "-f"], &config.path()));
    for address in &addresses {
        ready(address, 200).await;
    }
    pool.close().await;
    server.stop().await.unwrap();
    for address in &addresses {
        ready(address, 503).await;
    }
    server.resume().await.unwrap();
    for address in &addresses {
        ready(address, 200).await;
    }
    for process in processes {
        process.stop().await;
    }
}

/// Paused processes hold their Leases as those of another machine do that was cut off: nobody
/// can know that they have ended.
#[tokio::test(flavor = "multi_thread")]
async fn shards_of_a_paused_process_move_when_its_lease_expires() {
    const PAUSES: usize = 20;
    // The Lease's duration and its retry period.
    const GOAL: f64 = 2.0 + 0.4;
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let spec = "  shards: 2\n  lease: {duration: 2s, renewDeadline: 1500ms, retryPeriod: 400ms}\n";
    let configs: [Config; 2] = ["/0", "/1"].map(|path| files(&db.url, spec, &sink, path));
    let processes = configs.each_ref().map(Process::run);
    let (mut failovers, mut returns) = (Vec::new(), Vec::new());
    let mut since = Instant::now();
    for n in 0..PAUSES {
        shared(&db.pool, 2, &processes.each_ref()).await;
        if n > 0 {
            returns.push(since.elapsed().as_secs_f64());
        }
        let (paused, other) = (&processes[n % 2], &processes[1 - n % 2]);
        let before = shards(&db.pool).await;
        let at = Utc::now();
        paused.signal("STOP").await;
        let after = taken_over(&db.pool, 2, &[other]).await;
        failovers.extend(failover(&before, paused.pid(), &after, at));
        paused.signal("CONT").await;
        since = Instant::now();
    }
    for process in processes {
        process.stop().await;
    }
    let least = failovers.iter().copied().fold(f64::MAX, f64::min);
    let (median, most) = median_and_most(failovers);
    let (back, _) = median_and_most(returns);
    println!(
        "{PAUSES} pauses, taken over after {least:.2} to {most:.2} s, median {median:.2} s; \
         given back {back:.2} s after the end of a pause"
    );
    // To give a shard back waits for no Lease, and is what the machine makes of a claim here and now.
    assert!(
        median <= GOAL + back,
        "duration, one retry period and a claim: {median:.2} s, where a claim takes {back:.2} s"
    );
}

/// Processes that come and go.
struct Crowd<'a> {
    configs: &'a [Config; 3],
    processes: [Process; 3],
    /// When each goes on that is paused.
    paused: [Option<Instant>; 3],
    shards: usize,
}

impl Crowd<'_> {
    async fn wake(&mut self, all: bool) {
        for (process, paused) in self.processes.iter().zip(&mut self.paused) {
            if paused.is_some_and(|until| all || Instant::now() >= until) {
                *paused = None;
                process.signal("CONT").await;
            }
        }
    }

    fn start_anew(&mut self, n: usize) -> Process {
        std::mem::replace(&mut self.processes[n], Process::run(&self.configs[n]))
    }

    /// Waits until all are at work: a first start says what is wrong, and does not wait for long.
    async fn at_work(&mut self) {
        self.wake(true).await;
        for process in &mut self.processes {
            process.says("running").await;
        }
    }

    /// Gives the listener another number of shards, as its processes restart one by one.
    async fn number_of_shards(&mut self, to: usize) {
        self.wake(true).await;
        let (from, to) = (std::mem::replace(&mut self.shards, to), to);
        for config in self.configs {
            config.change(&format!("shards: {from}"), &format!("shards: {to}"));
        }
        for n in 0..self.processes.len() {
            ended(self.start_anew(n)).await;
        }
    }

    async fn something(
        &mut self,
        random: &mut StdRng,
        server: &PrivateServer,
        pool: &PgPool,
    ) -> String {
        let n = random.random_range(0..self.processes.len());
        let which = random.random_range(0..10);
        // A stop waits for the process to go on.
        if self.paused[n].is_some() && which < 6 {
            return "nothing".to_owned();
        }
        match which {
            0..2 => {
                self.start_anew(n).kill().await;
                format!("kill {n}")
            }
            2..4 => {
                ended(self.start_anew(n)).await;
                format!("stop {n}")
            }
            4..6 => {
                let lasts = Duration::from_millis(random.random_range(100..5000));
                self.processes[n].signal("STOP").await;
                self.paused[n] = Some(Instant::now() + lasts);
                format!("pause {n} for {lasts:?}")
            }
            6 => {
                let which = match random.random_range(0..3) {
                    0 => "true".to_owned(),
                    1 => format!("name like '%-{}-%'", self.processes[n].pid()),
                    _ => format!("name like '%-shard-{n}-of-%'"),
                };
                let count = delete_leases(pool, &which).await;
                format!("delete {count} Leases: {which}")
            }
            7 => {
                self.at_work().await;
                let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where application_name = 'observer-listener'";
                let count: i64 = sqlx::query_scalar(end).fetch_one(pool).await.unwrap();
                format!("end {count} connections")
            }
            8 => {
                let to = [2, 4, 7][random.random_range(0..3)];
                if to != self.shards {
                    self.number_of_shards(to).await;
                }
                format!("{to} shards")
            }
            _ => {
                self.at_work().await;
                server.crash().await.unwrap();
                server.resume().await.unwrap();
                "crash".to_owned()
            }
        }
    }
}

/// Asks a process to end. All that may go wrong is that it could not save at the end, for which a busy
/// machine gives reason enough, or that it had not begun to do anything.
async fn ended(mut process: Process) {
    process.signal("TERM").await;
    let (status, said) = (process.ends().await, process.said());
    let recovered = said.contains("error: Postgres has recovered from a crash");
    let away = said.contains("error: database outage lasts too long");
    let not_begun = status.signal().is_some() && said.is_empty();
    assert!(
        status.success() || recovered || away || not_begun,
        "{status}\n{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_at_random_loses_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (server, pool) = own_server().await;
    make_table(&pool).await;
    let sink = Sink::start(Behaviour::FailShare {
        per_mille: 10,
        seed,
        status: 503,
    })
    .await
    .unwrap();
    let spec = format!("{SHORT_LEASE}  shards: 4\n");
    let url = server.url("postgres");
    let configs: [Config; 3] = ["/0", "/1", "/2"].map(|path| files(&url, &spec, &sink, path));
    let mut crowd = Crowd {
        configs: &configs,
        processes: configs.each_ref().map(Process::run),
        paused: [None; 3],
        shards: 4,
    };
    shared(&pool, 4, &crowd.processes.each_ref()).await;
    let writers = Writers::start(&url, 4, seed);
    let begun = Instant::now();
    for _ in 0..AT_RANDOM {
        let what = crowd.something(&mut random, &server, &pool).await;
        println!("{:6.2} s: {what}", begun.elapsed().as_secs_f64());
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        crowd.wake(false).await;
    }
    crowd.wake(true).await;
    writers.stop().await;
    shared(&pool, crowd.shards, &crowd.processes.each_ref()).await;
    all_in_order(&pool, &sink).await;
    // It may be that one with nothing to do has not yet noticed the last crash.
    for process in crowd.processes {
        ended(process).await;
    }
    pool.close().await;
}
