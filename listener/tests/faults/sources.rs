//! Sources whose slot is lost, and backfills that fail.

use super::{Scene, Watch};
use crate::support::backfills::backfill;
use crate::support::fleet::LONG_LEASE;
use crate::wal::{Source, reading};

#[tokio::test(flavor = "multi_thread")]
async fn slot_that_is_lost() {
    let watch = Watch::start(1).await;
    let (source, _sink, config, process) = reading(Source::apart().await).await;
    source.run("update kv set v = v + 1").await;
    source.logged(40).await;
    process.stop().await;
    source.run("select pg_drop_replication_slot('shop')").await;
    let mut process = watch.run(0, &config);
    let firing = watch.tells("Slot lost", Some(&mut process)).await;
    process.stop().await;
    config.change("slot: shop\n", "slot: shop\n      onSlotLost: Recreate\n");
    let process = watch.run(0, &config);
    source.is_read().await;
    firing.ends().await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backfill_that_fails() {
    let mut scene = Scene::start(LONG_LEASE, |rows| {
        // Of the same endpoint, for the rows of another table.
        let later = rows.replace("name: kv", "name: later");
        let later = later.replace("public.kv", "public.later");
        rows + &later.replace("Truncate, Custom", "Read")
    })
    .await;
    scene
        .db
        .run("create table later (id int primary key)")
        .await;
    let start = ["start", "--yes", "--detach", "--table", "public.later"];
    backfill(&scene.config, &start).await.ok();
    let firing = scene
        .watch
        .tells("Backfill fails", Some(&mut scene.process))
        .await;
    firing.ends().await;
    scene.process.stop().await;
}
