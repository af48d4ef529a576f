//! Shards in which work waits and does not get on: the listener says which and why within seconds,
//! its pods are not ready, and both heal by themselves.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use crds::pod_status::ENDPOINT_FAILING;
use crds::v1alpha1::ObserverListener;
use observer_e2e::Behaviour;

use super::steps::{LISTENER, PODS, Wanted};
use super::{MAIN, Shop};
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::resources::{self, condition};
use crate::support::room::{Room, is_ready, scenario};
use crate::support::wait::{LATE, SOON, until};
use crate::support::writer::Writer;

/// `spec.stalledAfter` of the listener.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// How soon after that it should be told; shown beside the figure.
const GOAL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn stalled_shards_are_told_and_heal() {
    scenario("stalled", async |room| {
        installation::installed(&room.cluster).await?;
        let mut listener = resources::listener(LISTENER, 2);
        let after = format!("{}s", STALLED_AFTER.as_secs());
        listener["spec"]["stalledAfter"] = after.into();
        let mut shop = Shop::open_as(room, &listener).await?;
        let writer = Writer::start(&shop.database.pool, 100);
        shop.more(MAIN, 100).await?;
        shop.rested(room, &Wanted::of(8, 2)).await?;
        let refuses = Behaviour {
            status: 503,
            delay_ms: 0,
        };
        stalls(room, &mut shop, "a receiver that refuses", refuses).await?;
        let hangs = Behaviour {
            status: 204,
            delay_ms: 60_000,
        };
        stalls(room, &mut shop, "a receiver that hangs", hangs).await?;
        writer.stop().await?;
        shop.tally
            .all_in_order(&shop.sink, &shop.database, MAIN, LATE)
            .await
    })
    .await;
}

/// Lets the receiver behave like this until the listener is stalled, and then well again.
async fn stalls(room: &Room, shop: &mut Shop, what: &str, behaviour: Behaviour) -> Result<()> {
    let start = Instant::now();
    shop.sink.behave(behaviour).await?;
    let told = until("the listener is stalled", SOON, async || {
        let listener = room.api::<ObserverListener>().get(LISTENER).await?;
        let found = condition(&listener, "DeliveryStalled", "True")?;
        Ok((found.reason, found.message))
    })
    .await;
    let took = start.elapsed();
    let unready = until("a pod is not ready", SOON, async || {
        for pod in room.pods(PODS).await? {
            if !is_ready(&pod) {
                return Ok(());
            }
        }
        bail!("all are")
    })
    .await;
    let unready_after = start.elapsed();
    shop.sink.behave(Behaviour::default()).await?;
    let healed = Instant::now();
    let ((reason, message), _) = told?;
    unready?;
    figure(&format!(
        "{what}, stalledAfter {}: told after {} (goal: {}), a pod not ready after {}: {reason}: \
         {message}",
        seconds(STALLED_AFTER),
        seconds(took),
        seconds(STALLED_AFTER + GOAL),
        seconds(unready_after),
    ));
    ensure!(reason == ENDPOINT_FAILING, "its reason: {reason}");
    ensure!(message.contains("shard "), "no shard in: {message}");

    until("the listener is not stalled any more", LATE, async || {
        let listener = room.api::<ObserverListener>().get(LISTENER).await?;
        condition(&listener, "DeliveryStalled", "False")?;
        condition(&listener, "Ready", "True")?;
        for pod in room.pods(PODS).await? {
            ensure!(is_ready(&pod), "a pod is not ready");
        }
        Ok(())
    })
    .await?;
    figure(&format!(
        "  heals {} after the receiver does",
        seconds(healed.elapsed())
    ));
    shop.caught_up().await
}
