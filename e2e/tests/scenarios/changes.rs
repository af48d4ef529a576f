//! Changes of everything that users change, while rows are written: nothing is lost, nothing comes
//! twice, every key stays in order.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use observer_e2e::Behaviour;
use serde_json::{Value, json};

use super::{MAIN, Shop, programmed, ready, uids};
use crate::support::figures::figure;
use crate::support::room::{Room, scenario};
use crate::support::sink::SIGNING;
use crate::support::wait::{LATE, SOON, until};
use crate::support::writer::Writer;
use crate::support::{NEXT_TAG, REPOSITORY, installation, resources};

/// Changes a second.
const RATE: u32 = 200;

/// A path of an observer that comes and goes.
const EXTRA: &str = "/extra";

/// Its path after it has been changed.
const CHANGED: &str = "/changed";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn nothing_is_lost_or_repeated_while_everything_changes() {
    scenario("changes", async |room| {
        installation::installed(&room.cluster).await?;
        let mut listener = resources::listener("shop", 1);
        // Nobody is to be taken for dead, however busy the machine is.
        listener["spec"]["lease"] =
            json!({"duration": "60s", "renewDeadline": "50s", "retryPeriod": "1s"});
        let mut shop = Shop::open_as(room, &listener).await?;
        figure(&format!("changes under {RATE} rows a second:"));
        let start = Instant::now();
        let writer = Writer::start(&shop.database.pool, RATE);
        shop.more(MAIN, 200).await?;
        shop.tally.step(MAIN, "start", Duration::ZERO);

        scale(room, &mut shop, 3).await?;
        scale(room, &mut shop, 1).await?;
        for (what, template) in [
            (
                "an annotation of the pods",
                json!({"annotations": {"example.com/round": "2"}}),
            ),
            (
                "a variable of the pods",
                json!({"env": [{"name": "ROUND", "value": "3"}]}),
            ),
            (
                "another image",
                json!({"image": format!("{REPOSITORY}:{NEXT_TAG}")}),
            ),
        ] {
            pods_change(room, &mut shop, what, template).await?;
        }
        secret_changes(room, &mut shop).await?;
        observers_come_and_go(room, &mut shop).await?;
        receiver_fails(&mut shop).await?;

        let failed = writer.stop().await?;
        let committed: i64 = shop.database.committed().await?.values().sum();
        figure(&format!(
            "  writer: {committed} changes in {} s, {failed} statements failed",
            start.elapsed().as_secs()
        ));
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, SOON)
            .await?;
        for path in [EXTRA, CHANGED] {
            let found = shop.tally.path(path);
            ensure!(
                found.repeated() == 0 && found.disordered == 0,
                "{path}: {} repeated, {} out of order",
                found.repeated(),
                found.disordered
            );
        }
        Ok(())
    })
    .await;
}

async fn scale(room: &Room, shop: &mut Shop, replicas: i32) -> Result<()> {
    let start = Instant::now();
    let count = format!("--replicas={replicas}");
    room.cluster
        .kubectl(&[
            "scale",
            "--namespace",
            &room.namespace,
            "observerlistener/shop",
            &count,
        ])
        .await?;
    ready(room, "shop").await?;
    let wanted = usize::try_from(replicas)?;
    until(&format!("there are {wanted} pods"), LATE, async || {
        let pods = uids(room, "shop").await?.len();
        ensure!(pods == wanted, "there are {pods}");
        Ok(())
    })
    .await?;
    let took = start.elapsed();
    shop.more(MAIN, 200).await?;
    shop.tally
        .step(MAIN, &format!("kubectl scale to {replicas}"), took);
    Ok(())
}

async fn pods_change(room: &Room, shop: &mut Shop, what: &str, template: Value) -> Result<()> {
    let before = uids(room, "shop").await?;
    let start = Instant::now();
    let patch = json!({"spec": {"podTemplate": template}});
    room.merge::<ObserverListener>("shop", patch).await?;
    until("all pods are new", LATE, async || {
        let now = uids(room, "shop").await?;
        ensure!(
            !now.is_empty() && now.is_disjoint(&before),
            "old ones are left"
        );
        Ok(())
    })
    .await?;
    ready(room, "shop").await?;
    let took = start.elapsed();
    shop.more(MAIN, 200).await?;
    shop.tally.step(MAIN, what, took);
    Ok(())
}

async fn secret_changes(room: &Room, shop: &mut Shop) -> Result<()> {
    let before = uids(room, "shop").await?;
    let start = Instant::now();
    room.secret("hooks", json!({"signing-secret": SIGNING[1]}))
        .await?;
    let (tally, sink) = (&mut shop.tally, &shop.sink);
    until(
        "webhooks are signed with the new secret",
        LATE,
        async || {
            tally.count(sink).await?;
            let secrets = &tally.path(MAIN).secrets;
            ensure!(secrets.contains_key(&1), "signed by secret: {secrets:?}");
            Ok(())
        },
    )
    .await?;
    let took = start.elapsed();
    shop.more(MAIN, 200).await?;
    let (tally, sink) = (&mut shop.tally, &shop.sink);
    tally.count(sink).await?;
    tally.step(MAIN, "another signing secret", took);
    ensure!(
        before == uids(room, "shop").await?,
        "the pods were restarted"
    );
    Ok(())
}

async fn observers_come_and_go(room: &Room, shop: &mut Shop) -> Result<()> {
    let mut extra = resources::observer("extra", &shop.sink.url("extra"));
    let start = Instant::now();
    room.apply::<Observer>(&extra).await?;
    programmed(room, "extra").await?;
    shop.more(EXTRA, 1).await?;
    shop.tally.step(MAIN, "an observer added", start.elapsed());

    let start = Instant::now();
    extra["spec"]["actions"][0]["webhook"]["url"]["value"] = shop.sink.url("changed").into();
    room.apply::<Observer>(&extra).await?;
    programmed(room, "extra").await?;
    shop.more(CHANGED, 1).await?;
    let took = start.elapsed();
    shop.quiet(EXTRA).await?;
    shop.tally.step(MAIN, "an observer changed", took);

    let start = Instant::now();
    extra["spec"]["suspend"] = true.into();
    room.apply::<Observer>(&extra).await?;
    until("the observer is suspended", LATE, async || {
        let observer = room.api::<Observer>().get("extra").await?;
        let found = resources::condition(&observer, "Programmed", "False")?;
        ensure!(found.reason == "Suspended", "its reason: {}", found.reason);
        Ok(())
    })
    .await?;
    let took = start.elapsed();
    shop.quiet(CHANGED).await?;
    shop.tally.step(MAIN, "an observer suspended", took);

    let start = Instant::now();
    extra["spec"]["suspend"] = false.into();
    room.apply::<Observer>(&extra).await?;
    programmed(room, "extra").await?;
    shop.more(CHANGED, 1).await?;
    shop.tally
        .step(MAIN, "an observer active again", start.elapsed());

    let start = Instant::now();
    room.delete::<Observer>("extra").await?;
    shop.quiet(CHANGED).await?;
    shop.tally
        .step(MAIN, "an observer removed, until quiet", start.elapsed());
    Ok(())
}

/// The receiver refuses for a while: nothing is lost, and order is kept.
async fn receiver_fails(shop: &mut Shop) -> Result<()> {
    let start = Instant::now();
    shop.sink
        .behave(Behaviour {
            status: 503,
            delay_ms: 0,
        })
        .await?;
    let (tally, sink) = (&mut shop.tally, &shop.sink);
    until("webhooks are refused", SOON, async || {
        tally.count(sink).await?;
        let refused = tally.path(MAIN).refused;
        // Then it is left alone.
        ensure!(refused >= 20, "{refused} are");
        Ok(())
    })
    .await?;
    sink.behave(Behaviour::default()).await?;
    let took = start.elapsed();
    shop.more(MAIN, 200).await?;
    shop.tally
        .step(MAIN, "a receiver that refuses for a while", took);
    Ok(())
}
