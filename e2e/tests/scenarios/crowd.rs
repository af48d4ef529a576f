//! Thousands of observers in one listener: what they cost, and how soon a change of one is at work in the pods.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use serde_json::json;

use super::scale::{ABREAST, create};
use super::steps::PODS;
use super::{MAIN, Shop};
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::resources;
use crate::support::room::{Room, scenario};
use crate::support::samples::Samples;
use crate::support::wait::{LATE, until};
use crate::support::writer::Writer;

/// Observers besides `main`, each of about a kilobyte.
const OBSERVERS: usize = 5_000;

/// Changes whose time is taken, and how soon one should be at work.
const CHANGES: usize = 5;
const GOAL: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn thousands_of_observers_run_in_one_listener() {
    scenario("crowd", async |room| {
        installation::installed(&room.cluster).await?;
        let mut shop = Shop::open(room, 2).await?;
        let before = memory(room).await?;
        let start = Instant::now();
        make(room, &shop).await?;
        let made = start.elapsed();
        programmed(room, OBSERVERS + 1).await?;
        figure(&format!(
            "{OBSERVERS} observers of 1 kB made in {}, all at work after {}; pods {before:?} MB without them and {:?} with",
            seconds(made),
            seconds(start.elapsed()),
            memory(room).await?,
        ));
        let writer = Writer::start(&shop.database.pool, 100);
        shop.more(MAIN, 100).await?;
        let mut times = Vec::new();
        for number in 0..CHANGES {
            times.push(change(room, &mut shop, number).await?);
        }
        writer.stop().await?;
        let shown: Vec<String> = times.iter().map(|time| seconds(*time)).collect();
        figure(&format!(
            "  a change of one until it calls its new URL: {} (goal: {})",
            shown.join(", "),
            seconds(GOAL)
        ));
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, LATE)
            .await
    })
    .await;
}

/// Makes observers that match nothing yet.
async fn make(room: &Room, shop: &Shop) -> Result<()> {
    let (observers, padding) = (room.api::<Observer>(), "x".repeat(600));
    stream::iter(0..OBSERVERS)
        .map(|number| {
            let url = shop.sink.url(&format!("late-{number}"));
            let mut observer = resources::observer(&format!("o{number}"), &url);
            observer["spec"]["when"] = json!("new.v < 0");
            observer["spec"]["actions"][0]["webhook"]["body"] = json!(format!(
                "{{\"v\": {{{{ new.v }}}}, \"note\": \"{padding}\"}}"
            ));
            let observers = &observers;
            async move { create(observers, &observer).await }
        })
        .buffer_unordered(ABREAST)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

/// Waits until the pods run so many observers.
async fn programmed(room: &Room, count: usize) -> Result<()> {
    until("all observers are at work", LATE, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let listener = room.api::<ObserverListener>().get("shop").await?;
        let seen = listener.status.context("no status")?.observers;
        let wanted = i32::try_from(count)?;
        ensure!(seen.programmed == wanted, "of {wanted}: {seen:?}");
        Ok(())
    })
    .await
    .map(drop)
}

/// Has one observer match, and returns the time until it calls.
async fn change(room: &Room, shop: &mut Shop, number: usize) -> Result<Duration> {
    let path = format!("/late-{number}");
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let change = json!({ "spec": { "when": "new.v > 0" } });
    room.merge::<Observer>(&format!("o{number}"), change)
        .await?;
    let (tally, sink) = (&mut shop.tally, &shop.sink);
    let first = until("it calls", LATE, async || {
        tally.count(sink).await?;
        let found = tally.path(&path);
        ensure!(found.delivered > 0, "nothing has arrived");
        Ok(found.first)
    })
    .await?
    .0;
    let first = Duration::from_micros(first.try_into()?);
    Ok(first.saturating_sub(begun))
}

/// Resident memory of each pod, in MB, as it says.
async fn memory(room: &Room) -> Result<Vec<u64>> {
    let pods = room.pods(PODS).await?;
    ensure!(!pods.is_empty(), "there are no pods");
    let mut found = Vec::new();
    for pod in pods {
        let samples = Samples::of(room, &pod.name_any()).await?;
        let bytes = samples
            .sum("process_resident_memory_bytes")
            .context("its memory is not told")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bytes, written as a float"
        )]
        let bytes = bytes as u64;
        found.push(bytes >> 20);
    }
    Ok(found)
}
