//! A listener without observers: before there are any, and after the last one is suspended or gone.

use anyhow::{Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use serde_json::{Value, json};

use super::{MAIN, Shop, programmed, ready};
use crate::support::database::Database;
use crate::support::room::{Room, scenario};
use crate::support::sink::{self, Sink};
use crate::support::tally::Tally;
use crate::support::wait::{LATE, until};
use crate::support::writer::Writer;
use crate::support::{installation, resources};

/// Changes a second.
const RATE: u32 = 50;

/// Changes that are let pass before a path must be quiet, and while it is.
const PASSED: i64 = 100;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn a_listener_needs_no_observer() {
    scenario("idle", async |room| {
        installation::installed(&room.cluster).await?;
        let (database, sink) = tokio::try_join!(Database::start(room), Sink::start(room))?;
        database.migrate(room).await?;
        room.secret("hooks", sink::hooks(&sink)).await?;
        room.apply::<ObserverListener>(&resources::listener("shop", 1))
            .await?;
        ready(room, "shop").await?;

        let mut shop = Shop {
            database,
            sink,
            tally: Tally::default(),
        };
        let writer = Writer::start(&shop.database.pool, RATE);
        let main = resources::observer("main", &shop.sink.url("main"));
        room.apply::<Observer>(&main).await?;
        programmed(room, "main").await?;
        shop.more(MAIN, 50).await?;

        suspend(room, true).await?;
        until("the last observer is suspended", LATE, async || {
            let observer = room.api::<Observer>().get("main").await?;
            let found = resources::condition(&observer, "Programmed", "False")?;
            ensure!(found.reason == "Suspended", "its reason: {}", found.reason);
            Ok(())
        })
        .await?;
        silent(&mut shop).await?;
        ready(room, "shop").await?;

        suspend(room, false).await?;
        programmed(room, "main").await?;
        shop.more(MAIN, 50).await?;

        room.delete::<Observer>("main").await?;
        silent(&mut shop).await?;
        ready(room, "shop").await?;
        writer.stop().await.map(drop)
    })
    .await;
}

async fn suspend(room: &Room, suspend: bool) -> Result<()> {
    let patch: Value = json!({"spec": {"suspend": suspend}});
    room.merge::<Observer>("main", patch).await.map(drop)
}

/// Waits until nothing arrives while changes are committed.
async fn silent(shop: &mut Shop) -> Result<()> {
    until("no more webhooks are sent", LATE, async || {
        shop.tally.count(&shop.sink).await?;
        let before = shop.tally.path(MAIN).delivered;
        let from: i64 = shop.database.committed().await?.values().sum();
        until("changes are committed", LATE, async || {
            let now: i64 = shop.database.committed().await?.values().sum();
            ensure!(now >= from + PASSED, "{now} are");
            Ok(())
        })
        .await?;
        shop.tally.count(&shop.sink).await?;
        let after = shop.tally.path(MAIN).delivered;
        ensure!(after == before, "{} more arrived", after - before);
        Ok(())
    })
    .await
    .map(drop)
}
