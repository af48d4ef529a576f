//! Processes that are killed again and again, lose their Leases, or reject their configuration.

use std::time::{Duration, Instant};

use testkit::http_sink::{Behaviour, Sink};

use super::{Scene, Watch, load, rules};
use crate::support::fleet::{LONG_LEASE, SHORT_LEASE, files, shared, taken_over};
use crate::support::listener::{Config, Process};
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{database, eventually};

/// Shards of a listener unless it says otherwise.
const SHARDS: usize = 8;

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
async fn process_that_is_killed_again_and_again() {
    let scene = Scene::start(LONG_LEASE, |observer| observer).await;
    let Scene {
        watch,
        mut process,
        config,
        ..
    } = scene;
    let seen = "process_start_time_seconds{listener=\"default/test\"}";
    let restarting = async {
        let mut started = Instant::now();
        loop {
            eventually("the last start is a while ago", async || {
                (started.elapsed() > APART).then_some(())
            })
            .await;
            let before = watch.values(seen).await;
            process.signal("KILL").await;
            process.ends().await;
            process = watch.run(0, &config);
            started = Instant::now();
            eventually("Prometheus sees another start", async || {
                let now = watch.values(seen).await;
                (!now.is_empty() && now != before).then_some(())
            })
            .await;
        }
    };
    let firing = tokio::select! {
        () = restarting => unreachable!("it goes on"),
        firing = watch.tells("Restarts", None) => firing,
    };
    // It may be between two lives.
    if !process.has_ended() {
        process.kill().await;
    }
    let mut process = watch.run(0, &config);
    for text in super::expected("Restarts").log {
        process.says(&text).await;
    }
    firing.ends().await;
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
