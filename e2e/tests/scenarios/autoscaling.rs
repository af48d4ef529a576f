//! A listener whose load is too much for one pod gets more by itself, and nothing is lost, repeated or out of order as
//! they come.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::ObserverListener;
use observer_e2e::Behaviour;
use serde_json::json;

use super::steps::{LISTENER, RATE};
use super::{MAIN, Shop};
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::resources;
use crate::support::room::{Room, scenario};
use crate::support::wait::{LATE, SOON, until};
use crate::support::writer::Writer;

/// How soon more pods should be asked for; shown beside the figure.
const GOAL: Duration = Duration::from_secs(30);

/// A pod makes so many requests at once, of which each takes so long: 200 a second, and more are written.
const CONCURRENCY: u32 = 4;
const DELAY_MS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn load_that_is_too_much_for_a_pod_brings_more() {
    scenario("autoscaling", async |room| {
        installation::installed(&room.cluster).await?;
        let mut listener = resources::listener(LISTENER, 1);
        listener["spec"]["autoscaling"] = json!({ "maxReplicas": 4, "targetLag": "5s" });
        listener["spec"]["delivery"] = json!({ "maxConcurrency": CONCURRENCY });
        let mut shop = Shop::open_as(room, &listener).await?;
        let slow = Behaviour {
            status: 204,
            delay_ms: DELAY_MS,
        };
        shop.sink.behave(slow).await?;
        let start = Instant::now();
        let writer = Writer::start(&shop.database.pool, RATE);
        let (pods, asked) = until("more pods are asked for", LATE, async || {
            let pods = desired(room).await?;
            ensure!(pods > 1, "{pods} is asked for");
            Ok(pods)
        })
        .await?;
        until("several pods own shards", LATE, async || {
            let owners = Shop::fleet(room).await?.owners();
            ensure!(owners.len() > 1, "{owners:?} own them all");
            Ok(())
        })
        .await?;
        let at_work = start.elapsed();
        let failed = writer.stop().await?;
        ensure!(failed == 0, "{failed} statements failed");
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, SOON)
            .await?;
        figure(&format!(
            "{RATE} rows a second for pods of {}: {pods} pods asked for after {} (goal: {}), several at work after {}, and \
             all delivered once and in order after {} by {}",
            CONCURRENCY * 1000 / u32::try_from(DELAY_MS)?,
            seconds(asked),
            seconds(GOAL),
            seconds(at_work),
            seconds(start.elapsed()),
            desired(room).await?,
        ));
        Ok(())
    })
    .await;
}

/// The number of pods that the operator has decided on.
pub(super) async fn desired(room: &Room) -> Result<i32> {
    let listener = room.api::<ObserverListener>().get(LISTENER).await?;
    let status = listener.status.and_then(|status| status.autoscaling);
    Ok(status.context("nothing is decided yet")?.desired_replicas)
}
