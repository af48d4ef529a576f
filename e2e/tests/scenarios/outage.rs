//! An API server that is away for a minute: pods go on until they can no longer know that their
//! shards are theirs, and take up the work by themselves when it is back.
//!
//! The writer, the database and the receiver are reached without the API server; where they are
//! not, as with kind, there is nothing to be seen and the scenario says so.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::steps::{RATE, Wanted};
use super::{MAIN, Shop};
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::node::Node;
use crate::support::room::scenario;
use crate::support::wait::SOON;

/// Shards of the listener.
const SHARDS: u16 = 8;

/// How long the API server is away.
const AWAY: Duration = Duration::from_mins(1);

/// How long after its last renewal a pod goes on, as the listener has it by default.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Longest time since the last renewal when the API server goes.
const RENEWAL: Duration = Duration::from_secs(5);

/// What is under way at the deadline may arrive that much later.
const UNDER_WAY: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn an_api_server_that_is_away_stops_nobody_for_good() {
    scenario("outage", async |room| {
        installation::installed(&room.cluster).await?;
        let node = Node::of(&room.cluster)?;
        let mut shop = Shop::open(room, 3).await?;
        if !(shop.database.is_straight() && shop.sink.is_straight()) {
            figure("no outage of the API server: this machine has no other way to pods");
            return Ok(());
        }
        figure(&format!(
            "the API server away for {} s, under {RATE} rows a second:",
            AWAY.as_secs()
        ));
        let writer = shop.under_writers(room, &Wanted::of(SHARDS, 3)).await?;
        let gone = Shop::fleet(room).await?.members.into_keys().collect();
        let wanted = Wanted {
            gone,
            ..Wanted::of(SHARDS, 3)
        };

        let (went, start) = (chrono::Utc::now().timestamp_micros(), Instant::now());
        let meanwhile = away(&mut shop, &node, start).await;
        let since = Instant::now();
        node.start_api_server(&room.cluster).await?;
        let back = Instant::now();
        let last = meanwhile?;
        let on = Duration::from_micros(u64::try_from(last - went).unwrap_or_default());
        figure(&format!(
            "  delivered on for {}; the API server was back {} after it was started",
            seconds(on),
            seconds(back - since),
        ));
        ensure!(
            on + RENEWAL >= RENEW_DEADLINE,
            "delivery stopped after {on:?} already"
        );
        ensure!(
            on <= RENEW_DEADLINE + UNDER_WAY,
            "delivery went on for {on:?}"
        );
        let what = "the API server is started";
        shop.after(room, what, since, &wanted)
            .await?
            .seldom_twice(what)?;
        let failed = writer.stop().await?;
        ensure!(failed == 0, "{failed} statements failed");
        shop.tally
            .all_in_order(&shop.sink, &shop.database, MAIN, SOON)
            .await
    })
    .await;
}

/// Takes the API server away for the time, and gives when the last delivery arrived.
async fn away(shop: &mut Shop, node: &Node, start: Instant) -> Result<i64> {
    node.stop_api_server().await?;
    tokio::time::sleep_until((start + AWAY).into()).await;
    shop.tally.count(&shop.sink).await?;
    Ok(shop.tally.path(MAIN).last)
}
