//! More pods deliver more: two take twice the load of one when it is the receiver that is slow.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use observer_e2e::Behaviour;
use serde_json::json;

use super::steps::{LISTENER, Wanted, scale};
use super::{MAIN, Shop, ready};
use crate::support::figures::figure;
use crate::support::room::scenario;
use crate::support::wait::LATE;
use crate::support::writer::Writer;
use crate::support::{installation, resources};

/// Shards of the listener.
const SHARDS: u16 = 8;

/// How long the receiver takes for each.
const SLOW_MS: u64 = 50;

/// Attempts under way at once in a pod, so that it delivers 80 a second at most.
const IN_FLIGHT: u32 = 4;

/// Changes a second: more than two pods deliver.
const RATE: u32 = 250;

/// How long deliveries are counted.
const COUNTED: Duration = Duration::from_secs(15);

/// Least that two pods deliver for each that one does.
const RATIO: f64 = 1.7;

/// What even a machine with other work shows.
const LEAST: f64 = 1.2;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn two_replicas_deliver_twice_what_one_does() {
    scenario("spread", async |room| {
        installation::installed(&room.cluster).await?;
        let mut listener = resources::listener(LISTENER, 1);
        listener["spec"]["delivery"] = json!({"maxConcurrency": IN_FLIGHT});
        let mut shop = Shop::open_as(room, &listener).await?;
        shop.sink
            .behave(Behaviour {
                delay_ms: SLOW_MS,
                ..Behaviour::default()
            })
            .await?;
        let writer = Writer::start(&shop.database.pool, RATE);
        shop.more(MAIN, 100).await?;
        Shop::shared(room, Instant::now(), &Wanted::of(SHARDS, 1)).await?;
        let one = rate(&mut shop).await?;
        scale(room, 2).await?;
        ready(room, LISTENER).await?;
        Shop::shared(room, Instant::now(), &Wanted::of(SHARDS, 2)).await?;
        let two = rate(&mut shop).await?;
        writer.stop().await?;
        let ratio = two / one;
        figure(&format!(
            "a receiver that takes {SLOW_MS} ms, {IN_FLIGHT} attempts at once in a pod: one pod \
             delivers {one:.0} a second, two {two:.0}; ratio {ratio:.2} (goal: {RATIO})"
        ));
        shop.sink.behave(Behaviour::default()).await?;
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, LATE)
            .await?;
        ensure!(ratio >= LEAST, "two pods deliver {ratio:.2} times as much");
        Ok(())
    })
    .await;
}

/// Deliveries a second, counted for a while.
async fn rate(shop: &mut Shop) -> Result<f64> {
    shop.tally.count(&shop.sink).await?;
    let (before, start) = (shop.tally.path(MAIN).delivered, Instant::now());
    tokio::time::sleep(COUNTED).await;
    shop.tally.count(&shop.sink).await?;
    let delivered = shop.tally.path(MAIN).delivered - before;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let delivered = delivered as f64;
    Ok(delivered / start.elapsed().as_secs_f64())
}
