//! Receivers that are down, slow or silent, or that reject everything.

use std::time::Duration;

use testkit::http_sink::Behaviour;

use super::{Scene, load};
use crate::support::fleet::LONG_LEASE;

fn unchanged(observer: String) -> String {
    observer
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_that_is_down() {
    let mut scene = Scene::start(LONG_LEASE, unchanged).await;
    scene.sink.behave(Behaviour::Status(503));
    let load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Receiver down", Some(&mut scene.process))
        .await;
    drop(load);
    scene.sink.behave(Behaviour::Ok);
    firing.ends().await;
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_that_is_slow() {
    let mut scene = Scene::start(LONG_LEASE, unchanged).await;
    scene
        .sink
        .behave(Behaviour::Delay(Duration::from_millis(400)));
    let _load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Receiver slow", Some(&mut scene.process))
        .await;
    scene.sink.behave(Behaviour::Ok);
    firing.ends().await;
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_that_hangs() {
    let spec = format!("{LONG_LEASE}  stalledAfter: 5s\n  delivery: {{drainTimeout: 1s}}\n");
    let mut scene = Scene::start(&spec, unchanged).await;
    scene.sink.behave(Behaviour::Hang);
    let load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Receiver hangs", Some(&mut scene.process))
        .await;
    drop(load);
    scene.sink.behave(Behaviour::Ok);
    firing.ends().await;
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_without_end() {
    let mut scene = Scene::start(LONG_LEASE, unchanged).await;
    scene.sink.behave(Behaviour::Status(400));
    let load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Dead letters without end", Some(&mut scene.process))
        .await;
    drop(load);
    firing.ends().await;
    scene.process.stop().await;
}
