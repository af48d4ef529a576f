//! Several processes that share the shards of one listener, while many write: what was committed
//! arrives, in order within a key, and once where nobody was killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::Utc;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::http_sink::{Behaviour, Sink};

use crate::support::counters::{
    Kill, accepted, all_in_order, all_told, check, check_in_flight, expected,
};
use crate::support::fleet::{
    LONG_LEASE, SHORT_LEASE, failover, files, median_and_most, shards, shared, taken_over,
};
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, metric, ready};
use crate::support::writers::{Writers, make_table};
use crate::support::{TestDb, all_is_behind, database, eventually};
use testkit::seed::seed;
use tokio_util::sync::CancellationToken;

async fn counters() -> (TestDb, Sink) {
    let db = database().await;
    make_table(&db.pool).await;
    (db, Sink::start(Behaviour::Ok).await.unwrap())
}

/// Files of so many processes of one listener, each with a path of its own at the receiver.
fn files_of<const N: usize>(db: &TestDb, sink: &Sink, spec: &str) -> [Config; N] {
    std::array::from_fn(|n| files(&db.url, spec, sink, &format!("/{n}")))
}

/// Writes another number of shards into the files.
fn divide(configs: &[Config], from: usize, to: usize) {
    for config in configs {
        config.change(&format!("shards: {from}"), &format!("shards: {to}"));
    }
}

/// Changes every row once.
async fn change_all(db: &TestDb) {
    db.run("update kv set v = v + 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_the_work_and_leave_in_turn() {
    let (db, sink) = counters().await;
    let configs: [Config; 2] = files_of(&db, &sink, LONG_LEASE);
    let first = Process::run(&configs[0]);
    shared(&db.pool, 8, &[&first]).await;
    let end = CancellationToken::new();
    let ticking = {
        let (pool, end) = (db.pool.clone(), end.clone());
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        tokio::spawn(async move {
            // What is cut off may take effect later, so nothing is.
            while !end.is_cancelled() {
                ticks.tick().await;
                let update = sqlx::query("update kv set v = v + 1 where k <= 16");
                update.execute(&pool).await.unwrap();
            }
        })
    };
    let second = Process::run(&configs[1]);
    shared(&db.pool, 8, &[&first, &second]).await;
    first.stop().await;
    shared(&db.pool, 8, &[&second]).await;
    let first = Process::run(&configs[0]);
    shared(&db.pool, 8, &[&first, &second]).await;
    end.cancel();
    ticking.await.unwrap();
    assert_eq!(
        all_in_order(&db.pool, &sink).await,
        0,
        "nothing is repeated"
    );
    let handed_over = hand_overs(&sink);

    let before = sink.counts().requests;
    for _ in 0..3 {
        change_all(&db).await;
    }
    assert_eq!(
        all_in_order(&db.pool, &sink).await,
        0,
        "nothing is repeated"
    );
    let owners: Vec<(i32, String)> = sqlx::query_as(
        "select k, holder from kv join observer.checkpoint
         on shard = observer.hash_of(null, 'public.kv', k::text) % shards",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let processes = [first.pid(), second.pid()];
    let owner: BTreeMap<i64, String> = owners
        .into_iter()
        .map(|(k, holder)| {
            let of = |pid: &u32| holder.contains(&format!("-{pid}-"));
            (
                i64::from(k),
                format!("/{}", processes.iter().position(of).unwrap()),
            )
        })
        .collect();
    let all = accepted(&sink.received());
    let since = &all[usize::try_from(before).unwrap()..];
    for one in since {
        assert_eq!(
            one.path, owner[&one.key],
            "each delivers for its own shards"
        );
    }
    first.stop().await;
    change_all(&db).await;
    second.stop().await;
    let last = Process::run(&configs[0]);
    assert_eq!(
        all_in_order(&db.pool, &sink).await,
        0,
        "nothing is repeated"
    );
    last.stop().await;
    let count = handed_over.len();
    let (median, most) = median_and_most(handed_over);
    println!("{count} keys handed over: median pause {median:.3} s, longest {most:.3} s");
    // A busy machine may take its time, but a Lease that has to run out takes a minute.
    assert!(
        median < 50.0,
        "a hand-over waits for no Lease to run out: {median:.3} s at the median"
    );
}

/// For each key that went from one process to another, the seconds between the last delivery of the
/// one and the first of the other.
fn hand_overs(sink: &Sink) -> Vec<f64> {
    let mut last: BTreeMap<i64, (String, Instant)> = BTreeMap::new();
    let mut pauses = Vec::new();
    for one in accepted(&sink.received()) {
        let before = last.insert(one.key, (one.path.clone(), one.at));
        pauses.extend(
            before
                .filter(|(path, _)| *path != one.path)
                .map(|(_, at)| (one.at - at).as_secs_f64()),
        );
    }
    pauses
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_nothing_is_lost_or_out_of_order() {
    const KILLS: usize = 8;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (db, sink) = counters().await;
    let configs: [Config; 3] = files_of(&db, &sink, LONG_LEASE);
    let mut processes = configs.each_ref().map(Process::run);
    shared(&db.pool, 8, &processes.each_ref()).await;
    let writers = Writers::start(&db.url, 4, seed);
    let (mut kills, mut failovers) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        sink.arrived(sink.counts().requests + random.random_range(1..200))
            .await;
        let victim = random.random_range(0..processes.len());
        let before = shards(&db.pool).await;
        let (pid, at) = (processes[victim].pid(), Utc::now());
        let killed = std::mem::replace(&mut processes[victim], Process::run(&configs[victim]));
        kills.push(Kill::of(&db.pool, &sink, killed.kill()).await);
        let after = taken_over(&db.pool, 8, &processes.each_ref()).await;
        failovers.extend(failover(&before, pid, &after, at));
    }
    writers.stop().await;
    let expected = expected(&db.pool).await;
    all_told(&sink, &expected).await;
    for process in processes {
        process.stop().await;
    }
    let all = accepted(&sink.received());
    let repeats = check(&all, &expected);
    let (median, most) = median_and_most(failovers);
    println!(
        "{KILLS} kills, {} deliveries, {} repeats; taken over after {median:.2} s, {most:.2} s at most",
        all.len(),
        repeats.len()
    );
    check_in_flight(&repeats, &kills);
}

/// What failed is a job, which any of them may work on, and may be with one that dies.
#[tokio::test(flavor = "multi_thread")]
async fn random_kills_with_jobs_lose_and_reorder_nothing() {
    let rounds = std::env::var("OBSERVER_TEST_ROUNDS").ok();
    let rounds = rounds.map_or(6, |rounds| rounds.parse().unwrap());
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (db, sink) = counters().await;
    sink.behave(Behaviour::FailShare {
        per_mille: 30,
        seed,
        status: 503,
    });
    let spec = format!("{SHORT_LEASE}  queue: {{workerLeaseDuration: 5s}}\n");
    let configs: [Config; 3] = files_of(&db, &sink, &spec);
    let mut processes = configs.each_ref().map(Process::run);
    shared(&db.pool, 8, &processes.each_ref()).await;
    let writers = Writers::start(&db.url, 4, seed);
    for _ in 0..rounds {
        let more = sink.counts().requests + random.random_range(1..400);
        sink.arrived(more).await;
        let victim = random.random_range(0..processes.len());
        // Before that it knows no stop.
        processes[victim].says("running").await;
        let next = Process::run(&configs[victim]);
        let ends = std::mem::replace(&mut processes[victim], next);
        if random.random() {
            ends.kill().await;
        } else {
            ends.stop().await;
        }
        taken_over(&db.pool, 8, &processes.each_ref()).await;
        let expected = expected(&db.pool).await;
        all_told(&sink, &expected).await;
    }
    writers.stop().await;
    println!("{} repeats", all_in_order(&db.pool, &sink).await);
    for process in processes {
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_paused_process_still_saves_is_refused() {
    let seed = seed();
    let (db, sink) = counters().await;
    let configs: [Config; 2] = files_of(&db, &sink, SHORT_LEASE);
    let address = free_address();
    let listen = ["run", "--listen", &address, "-f"];
    let mut first = Process::start(&listen, &configs[0].path());
    shared(&db.pool, 8, &[&first]).await;
    ready(&address, 200).await;
    let writers = Writers::start(&db.url, 4, seed);
    sink.arrived(100).await;
    first.signal("STOP").await;
    let second = Process::run(&configs[1]);
    taken_over(&db.pool, 8, &[&second]).await;
    let told = sink.counts().requests;
    sink.arrived(told + 100).await;
    let epochs = "select string_agg(shard || ' ' || epoch || ' ' || holder, ', ' order by shard)
        from observer.checkpoint";
    let by_second: String = db.value(epochs).await;
    first.signal("CONT").await;
    first
        .says("fenced: another process has claimed the shard")
        .await;
    eventually("refused saves are counted", async || {
        let fenced = metric(&address, "observer_checkpoint_fenced_total").await?;
        (fenced > 0.0).then_some(())
    })
    .await;
    let again = "joined the fleet";
    eventually("the first joins again", async || {
        (first.said().matches(again).count() > 1).then_some(())
    })
    .await;
    shared(&db.pool, 8, &[&first, &second]).await;
    assert_ne!(db.value::<String>(epochs).await, by_second);
    writers.stop().await;
    println!("{} repeats", all_in_order(&db.pool, &sink).await);
    // A Lease that is lost meanwhile is none of the third's business, and its own is not lost.
    all_is_behind(&db).await;
    first.stop().await;
    second.stop().await;
    configs[0].change(SHORT_LEASE, LONG_LEASE);
    let before = sink.counts().requests;
    let third = Process::run(&configs[0]);
    change_all(&db).await;
    all_in_order(&db.pool, &sink).await;
    third.stop().await;
    let changed: i64 = db.value("select count(*) from kv").await;
    let since = sink.counts().requests - before;
    assert_eq!(since, changed.unsigned_abs(), "nothing more is repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_shards_repeats_and_loses_nothing() {
    let seed = seed();
    let (db, sink) = counters().await;
    let spec = format!("{LONG_LEASE}  shards: 4\n");
    let configs: [Config; 2] = files_of(&db, &sink, &spec);
    let [mut first, mut second] = configs.each_ref().map(Process::run);
    shared(&db.pool, 4, &[&first, &second]).await;
    let writers = Writers::start(&db.url, 4, seed);
    for (from, to) in [(4, 7), (7, 2)] {
        divide(&configs, from, to);
        sink.arrived(sink.counts().requests + 100).await;
        first.stop().await;
        first = Process::run(&configs[0]);
        first.says("running").await;
        second.stop().await;
        second = Process::run(&configs[1]);
        shared(&db.pool, to, &[&first, &second]).await;
    }
    writers.stop().await;
    assert_eq!(
        all_in_order(&db.pool, &sink).await,
        0,
        "nothing is repeated"
    );
    first.stop().await;
    second.stop().await;
    let inherited: i64 = db
        .value("select count(*) from observer.checkpoint where pre_reshard_progress::text <> '[]'")
        .await;
    println!("{inherited} shards still know of others");
}

#[tokio::test(flavor = "multi_thread")]
async fn resharding_under_kills_loses_nothing() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (db, sink) = counters().await;
    let spec = format!("{SHORT_LEASE}  shards: 4\n");
    let configs: [Config; 2] = files_of(&db, &sink, &spec);
    let [mut first, mut second] = configs.each_ref().map(Process::run);
    shared(&db.pool, 4, &[&first, &second]).await;
    let writers = Writers::start(&db.url, 4, seed);
    for (from, to) in [(4, 7), (7, 2)] {
        divide(&configs, from, to);
        let more = sink.counts().requests + random.random_range(50..200);
        sink.arrived(more).await;
        first.kill().await;
        first = Process::run(&configs[0]);
        first.says("running").await;
        second.kill().await;
        second = Process::run(&configs[1]);
        // Amid laying out anew, or moments after it.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        first.kill().await;
        first = Process::run(&configs[0]);
        shared(&db.pool, to, &[&first, &second]).await;
    }
    writers.stop().await;
    println!("{} repeats", all_in_order(&db.pool, &sink).await);
    first.stop().await;
    second.stop().await;
}
