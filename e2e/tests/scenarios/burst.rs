//! A burst that takes one pod long is drained sooner where the operator decides the number of pods, which are fewer again
//! afterwards. Each change is delivered once and in order. And a load that swings does not make that number swing.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::v1alpha1::ObserverListener;
use observer_e2e::Behaviour;
use serde_json::{Value, json};

use super::autoscaling::desired;
use super::steps::LISTENER;
use super::{MAIN, Shop};
use crate::support::database::KEYS;
use crate::support::figures::{figure, seconds};
use crate::support::installation;
use crate::support::resources;
use crate::support::room::{Room, scenario};
use crate::support::wait::{LATE, until};
use crate::support::writer::Writer;

const EVENTS: i64 = 200_000;

/// A pod makes so many requests at once, of which each takes so long: 600 a second.
const CONCURRENCY: u32 = 12;
const DELAY_MS: u64 = 20;

/// The load that swings: more than a pod can do for a while, and then nothing for as long, for ten minutes.
const HIGH: u32 = 900;
const PHASE: Duration = Duration::from_secs(30);
const PHASES: usize = 20;

/// Most changes of the number of pods in that time that are no flapping: to the number that the load needs, and a trial
/// of fewer with its end.
const MOST_TURNS: usize = 4;

async fn shop(room: &Room, autoscaling: Option<Value>) -> Result<Shop> {
    installation::installed(&room.cluster).await?;
    let mut listener = resources::listener(LISTENER, 1);
    listener["spec"]["delivery"] = json!({ "maxConcurrency": CONCURRENCY });
    if let Some(autoscaling) = autoscaling {
        listener["spec"]["autoscaling"] = autoscaling;
    }
    let shop = Shop::open_as(room, &listener).await?;
    let slow = Behaviour {
        status: 204,
        delay_ms: DELAY_MS,
    };
    shop.sink.behave(slow).await?;
    Ok(shop)
}

/// Commits all events at once, and waits until they are delivered.
async fn burst(shop: &mut Shop) -> Result<Duration> {
    let rounds = EVENTS / KEYS;
    let write = format!(
        "do $$ begin for n in 1..{rounds} loop update kv set v = v + 1; commit; end loop; end $$"
    );
    let start = Instant::now();
    sqlx::raw_sql(sqlx::AssertSqlSafe(write))
        .execute(&shop.database.pool)
        .await?;
    shop.tally
        .all_once(&shop.sink, &shop.database, MAIN, LATE)
        .await?;
    Ok(start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn burst_is_drained_sooner_by_more_pods() {
    scenario("burst", async |room| {
        let mut shop = shop(room, None).await?;
        let alone = burst(&mut shop).await?;
        let spec = json!({ "spec": { "autoscaling": { "maxReplicas": 4, "targetLag": "5s" } } });
        room.merge::<ObserverListener>(LISTENER, spec).await?;
        let most = Cell::new(1);
        let watching = async {
            loop {
                most.set(desired(room).await.map_or(most.get(), |pods| most.get().max(pods)));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let took = tokio::select! {
            took = burst(&mut shop) => took?,
            () = watching => unreachable!("it goes on"),
        };
        let start = Instant::now();
        let (pods, _) = until("there are fewer pods again", LATE, async || {
            let pods = desired(room).await?;
            ensure!(pods == 1, "{pods} are asked for");
            Ok(pods)
        })
        .await?;
        figure(&format!(
            "{EVENTS} events, {DELAY_MS} ms each: one pod {}, up to {} by spec.autoscaling {}; {pods} again \
             after {}",
            seconds(alone),
            most.get(),
            seconds(took),
            seconds(start.elapsed()),
        ));
        ensure!(took < alone, "more pods took longer");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn number_of_pods_does_not_follow_a_load_that_swings() {
    scenario("swing", async |room| {
        let autoscaling = json!({ "maxReplicas": 4, "targetLag": "5s" });
        let mut shop = shop(room, Some(autoscaling)).await?;
        let mut numbers = vec![1];
        for phase in 0..PHASES {
            let writer = (phase % 2 == 0).then(|| Writer::start(&shop.database.pool, HIGH));
            let start = Instant::now();
            // A time of load or of none is what is asked for.
            while start.elapsed() < PHASE {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let pods = desired(room).await?;
                if numbers.last() != Some(&pods) {
                    numbers.push(pods);
                }
            }
            if let Some(writer) = writer {
                let failed = writer.stop().await?;
                ensure!(failed == 0, "{failed} statements failed");
            }
        }
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, LATE)
            .await?;
        figure(&format!(
            "{HIGH} rows a second for {} and none for as long, {PHASES} times: pods {numbers:?}",
            seconds(PHASE)
        ));
        let turns = turns(&numbers);
        ensure!(turns <= MOST_TURNS, "{turns} turns: {numbers:?}");
        Ok(())
    })
    .await;
}

/// How often it went down after it had gone up, or up after down.
fn turns(numbers: &[i32]) -> usize {
    let steps: Vec<bool> = numbers.windows(2).map(|two| two[1] > two[0]).collect();
    steps.windows(2).filter(|two| two[0] != two[1]).count()
}
