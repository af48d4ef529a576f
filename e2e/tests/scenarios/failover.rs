//! How long the changes of a shard wait when its owner dies, and when it leaves as it should.
//!
//! Alone it is done often enough to see the median; `make soak` kills twenty times. The times of the Leases are shorter than by default, to keep it short.
//!
//! A change waits for its delivery at rest, too, and on a busy machine it may wait for as long as a
//! hand-over takes. So the longest wait at rest is measured before each hand-over, and beside it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::faults::victim;
use super::steps::{LISTENER, RATE, Wanted};
use super::{MAIN, Shop};
use testkit::soak::rounds;

use crate::support::figures::{figure, quantile, seconds};
use crate::support::node::Node;
use crate::support::room::{Room, scenario};
use crate::support::wait::SOON;
use crate::support::{installation, resources};

/// Shards of the listener.
const SHARDS: u16 = 8;

/// The Lease's duration.
const DURATION: Duration = Duration::from_secs(6);

/// Its retry period.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Longest wait when a pod leaves as it should, beyond that at rest, in the middle of all: the goal,
/// shown beside the figure.
const HAND_OVER: Duration = Duration::from_millis(300);

/// Retry periods beyond a Lease that are borne on a busy machine; one is the goal.
const RETRIES_MOST: u32 = 3;

/// How long the rest is watched before a pod leaves.
const CALM: Duration = Duration::from_secs(2);

/// Pods that leave after each kill. The first is the one whose process was killed: the kubelet
/// would make its container wait longer with each kill.
const LEAVE: usize = 2;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn failover_takes_no_longer_than_a_lease() {
    scenario("failover", async |room| {
        installation::installed(&room.cluster).await?;
        let node = Node::of(&room.cluster)?;
        let mut listener = resources::listener(LISTENER, 3);
        listener["spec"]["lease"] = json!({
            "duration": format!("{}s", DURATION.as_secs()),
            "renewDeadline": "4s",
            "retryPeriod": format!("{}s", RETRY_PERIOD.as_secs()),
        });
        let mut shop = Shop::open_as(room, &listener).await?;
        let writer = shop.under_writers(room, &Wanted::of(SHARDS, 3)).await?;
        let kills = rounds(5, 20);
        let (mut died, mut left, mut calm, mut repeated) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..kills {
            let (pod, identity) = victim(room).await?;
            let wanted = Wanted::of(SHARDS, 3).without(identity);
            let known = shop.tally.path(MAIN).repeated();
            let start = Instant::now();
            node.kill(room, &pod).await?;
            died.push(wait(room, &mut shop, start, &wanted).await?);
            repeated += shop.tally.path(MAIN).repeated() - known;
            shop.rested(room, &wanted).await?;
            let mut leaves = pod;
            for _ in 0..LEAVE {
                calm.push(rests(&mut shop).await?);
                left.push(leave(room, &mut shop, &leaves).await?);
                leaves = victim(room).await?.0;
            }
        }
        writer.stop().await?;
        figure(&format!(
            "under {RATE} rows a second, with leases of {} s, 4 s and {} s, longest wait of a change:",
            DURATION.as_secs(),
            RETRY_PERIOD.as_secs(),
        ));
        told("kill -9", &mut died);
        figure(&format!("    {repeated} repeated in all"));
        told("pod deleted", &mut left);
        told("at rest, for as long", &mut calm);
        shop.tally
            .all_in_order(&shop.sink, &shop.database, MAIN, SOON)
            .await?;
        let rest = quantile(&calm, 500);
        let (died, left) = (quantile(&died, 500), quantile(&left, 500));
        let (died, left) = (died.saturating_sub(rest), left.saturating_sub(rest));
        figure(&format!(
            "  in the middle, beyond that at rest: {} for a kill (goal: {}), {} for a pod deleted (goal: {})",
            seconds(died),
            seconds(DURATION + RETRY_PERIOD),
            seconds(left),
            seconds(HAND_OVER),
        ));
        ensure!(
            died <= (DURATION + RETRY_PERIOD * RETRIES_MOST) * 3,
            "changes of a dead owner's shards waited {died:?} longer than others"
        );
        ensure!(
            left * 2 <= died,
            "changes of shards that were handed over waited {left:?} longer than others, no less than half of \
             those of a dead owner's"
        );
        Ok(())
    })
    .await;
}

/// Longest wait of a change until every shard has an owner.
async fn wait(room: &Room, shop: &mut Shop, start: Instant, wanted: &Wanted) -> Result<Duration> {
    Shop::owned(room, start, wanted).await?;
    shop.caught_up().await?;
    let path = shop.tally.path(MAIN);
    ensure!(path.disordered == 0, "{} out of order", path.disordered);
    Ok(path.take_wait())
}

/// Deletes a pod and gives the longest wait of a change meanwhile.
async fn leave(room: &Room, shop: &mut Shop, pod: &str) -> Result<Duration> {
    let identity = Shop::fleet(room).await?.identity(pod)?;
    let wanted = Wanted::of(SHARDS, 3).without(identity);
    let known = shop.tally.path(MAIN).repeated();
    let start = Instant::now();
    room.delete::<Pod>(pod).await?;
    let pause = wait(room, shop, start, &wanted).await?;
    let repeated = shop.tally.path(MAIN).repeated() - known;
    ensure!(repeated == 0, "{repeated} repeated when {pod} left");
    shop.rested(room, &wanted).await?;
    Ok(pause)
}

/// Longest wait of a change while nothing is done to the listener.
async fn rests(shop: &mut Shop) -> Result<Duration> {
    tokio::time::sleep(CALM).await;
    shop.caught_up().await?;
    Ok(shop.tally.path(MAIN).take_wait())
}

/// Prints a distribution, sorted from here on.
fn told(what: &str, waits: &mut [Duration]) {
    waits.sort_unstable();
    figure(&format!(
        "  {what}, {} times: at least {}, p50 {}, p90 {}, at most {}",
        waits.len(),
        seconds(quantile(waits, 0)),
        seconds(quantile(waits, 500)),
        seconds(quantile(waits, 900)),
        seconds(quantile(waits, 1000)),
    ));
}
