//! Processes that are killed again and again, lose their Leases, or reject their configuration.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use testkit::http_sink::{Behaviour, Sink};
use testkit::memory_cgroup::MemoryCgroup;

use super::{Scene, Watch, load, rules};
use crate::support::fleet::{LONG_LEASE, SHORT_LEASE, files, shared, taken_over};
use crate::support::listener::{Config, Process, observer, patient};
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{database, eventually};

/// Shards of a listener unless it says otherwise.
const SHARDS: usize = 8;

/// What a process has of memory, in bytes: enough for small events, and not for all of these large ones, 4 MB each.
const MEMORY: u64 = 64 << 20;
const BIG_ROWS: usize = 16;
const MOST_ROWS: usize = 3 * BIG_ROWS;

/// After so long, a process has read what it is given.
const FITS: Duration = Duration::from_secs(20);

/// Time between two starts of a process after which they do not count as one: they are told by their
/// seconds.
const APART: Duration = Duration::from_millis(1100);

#[tokio::test(flavor = "multi_thread")]
async fn process_that_is_killed() {
    let scene = Scene::start(LONG_LEASE, |observer| observer).await;
    let Scene {
        watch,
        process,
        config,
        ..
    } = scene;
    process.kill().await;
    let firing = watch.tells("All processes down", None).await;
    let mut process = watch.run(0, &config);
    process.says("running").await;
    firing.ends().await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_is_out_of_memory_again_and_again() {
    let (watch, db) = (Watch::start(1).await, database().await);
    db.run("create table big (id int primary key, t text); select observer.track('big')")
        .await;
    let sink = Sink::start(Behaviour::Hang).await.unwrap();
    let observer = patient(&observer("big", "public.big", &sink.url("/hook"), ""));
    let config = Config::new(&db.url, LONG_LEASE, &observer);
    let cgroup = MemoryCgroup::new(MEMORY);
    let args = ["run", "--listen", &watch.addresses[0], "-f"];
    let start = || Process::start_in_cgroup(&args, &config.path(), &cgroup);
    let mut process = start();
    watch.reads_all().await;
    let rows = AtomicUsize::new(0);
    let insert = async || {
        let from = rows.fetch_add(BIG_ROWS, Ordering::Relaxed);
        let numbers = format!("generate_series({from} + 1, {from} + {BIG_ROWS}) n");
        db.run(&format!(
            "insert into big select n, repeat('x', 4000000) from {numbers}"
        ))
        .await;
    };
    insert().await;
    // Each time it comes back, it reads the same events. As many as just fit are possible: then there are more.
    let restarting = async {
        loop {
            let started = Instant::now();
            while timeout(FITS, process.ends()).await.is_err() {
                if rows.load(Ordering::Relaxed) < MOST_ROWS {
                    insert().await;
                }
            }
            eventually("the last start is a while ago", async || {
                (started.elapsed() > APART).then_some(())
            })
            .await;
            process = start();
        }
    };
    let firing = tokio::select! {
        () = restarting => unreachable!("it goes on"),
        firing = watch.tells("Out of memory", None) => firing,
    };
    assert!(cgroup.kills() > 1, "{}", cgroup.kills());
    if !process.has_ended() {
        process.kill().await;
    }
    sink.behave(Behaviour::Ok);
    let mut process = watch.run(0, &config);
    for text in super::expected("Out of memory").log {
        process.says(&text).await;
    }
    firing.ends().await;
    eventually("all is delivered", async || {
        (sink.received().len() >= rows.load(Ordering::Relaxed)).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_is_paused_again_and_again() {
    // From one loss to the next it takes a while, and more on a busy machine.
    let watch = Watch::start_at(2, rules::LESS_FAST).await;
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let all = [(); 2].map(|()| files(&db.url, SHORT_LEASE, &sink, "/"));
    let mut paused = watch.run(0, &all[0]);
    let other = watch.run(1, &all[1]);
    watch.reads_all().await;
    // Each time it comes back, it finds that another process has its shards.
    let pausing = async {
        loop {
            shared(&db.pool, SHARDS, &[&paused, &other]).await;
            paused.signal("STOP").await;
            taken_over(&db.pool, SHARDS, &[&other]).await;
            paused.signal("CONT").await;
        }
    };
    let firing = tokio::select! {
        () = pausing => unreachable!("it goes on"),
        firing = watch.tells("Leases lost", None) => firing,
    };
    paused.signal("CONT").await;
    for text in super::expected("Leases lost").log {
        paused.says(&text).await;
    }
    firing.ends().await;
    paused.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_that_is_rejected() {
    let mut scene = Scene::start(LONG_LEASE, |observer| observer).await;
    let _load = load(&scene.db.pool);
    scene
        .config
        .change("entity: \"public.kv\"", "entiti: \"public.kv\"");
    let firing = scene
        .watch
        .tells("Configuration rejected", Some(&mut scene.process))
        .await;
    scene
        .config
        .change("entiti: \"public.kv\"", "entity: \"public.kv\"");
    firing.ends().await;
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_that_jumps() {
    let (watch, db) = (Watch::start(1).await, database().await);
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, LONG_LEASE, &rows_to(&sink, "/"));
    let clock = config.dir.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+0");
    let args = ["run", "--listen", &watch.addresses[0], "-f"];
    let mut process = Process::start_with_clock(&args, &config.path(), &clock);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    watch.reads_all().await;
    set("+90");
    let firing = watch.tells("Clock jumps", Some(&mut process)).await;
    // It goes on delivering, and so it does when the clock goes back.
    change_rows(&db.pool, 1).await;
    all_told(&sink, 2).await;
    set("+0");
    firing.ends().await;
    change_rows(&db.pool, 1).await;
    all_told(&sink, 3).await;
    process.stop().await;
}
