//! Pods that share the shards of a listener, through everything that is planned: other numbers of
//! pods and of shards, a rollout, evictions. Nothing is lost, nothing comes twice, every key stays
//! in order.
//!
//! The rest is watched for twice as long in `make soak`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::core::v1::Pod;
use kube::api::EvictParams;
use serde_json::json;

use super::steps::{LISTENER, RATE, Wanted, divide, names, roll, scale};
use super::{MAIN, Shop, ready};
use testkit::soak::rounds;

use crate::support::figures::{figure, seconds};
use crate::support::room::{Room, scenario};
use crate::support::samples::Samples;
use crate::support::wait::{LATE, SOON, until};
use crate::support::{installation, resources};

/// Shards of the listener that is scaled.
const SHARDS: u16 = 8;

/// How long the rest is watched, in seconds; twice as long where there is time.
const REST: u64 = 30;

/// Most requests for Leases of a pod and second at rest. One write for each renewal, every three
/// seconds, is what is needed; watches that end in the normal course come on top.
const REQUESTS: f64 = 0.5;

/// Pods that are evicted in this time did not wait for one another.
const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn replicas_share_the_shards_through_what_is_planned() {
    scenario("replicas", async |room| {
        installation::installed(&room.cluster).await?;
        let mut shop = Shop::open(room, 3).await?;
        figure(&format!(
            "three replicas and {SHARDS} shards under {RATE} rows a second:"
        ));
        let writer = shop.under_writers(room, &Wanted::of(SHARDS, 3)).await?;
        told(room, &mut shop).await?;
        rests(room, &mut shop).await?;

        for replicas in [6, 1, 3] {
            let start = Instant::now();
            scale(room, replicas).await?;
            ready(room, LISTENER).await?;
            let what = format!("kubectl scale to {replicas}");
            shop.after(room, &what, start, &Wanted::of(SHARDS, replicas))
                .await?
                .once(&what)?;
        }
        rolls_out(room, &mut shop).await?;
        drained(room, &mut shop).await?;

        let failed = writer.stop().await?;
        ensure!(failed == 0, "{failed} statements failed");
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, SOON)
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn shards_of_a_listener_at_work_change() {
    scenario("shards", async |room| {
        installation::installed(&room.cluster).await?;
        let mut listener = resources::listener(LISTENER, 3);
        listener["spec"]["shards"] = json!(4);
        let mut shop = Shop::open_as(room, &listener).await?;
        figure(&format!(
            "three replicas and 4 shards under {RATE} rows a second:"
        ));
        let writer = shop.under_writers(room, &Wanted::of(4, 3)).await?;
        for shards in [7, 2] {
            let start = Instant::now();
            divide(room, shards).await?;
            let what = format!("spec.shards: {shards}");
            shop.after(room, &what, start, &Wanted::of(shards, 3))
                .await?
                .once(&what)?;
            until("Leases of other divisions are gone", LATE, async || {
                let fleet = Shop::fleet(room).await?;
                let left: Vec<_> = fleet.shards.keys().filter(|s| s.of != shards).collect();
                ensure!(left.is_empty(), "left: {left:?}");
                Ok(())
            })
            .await?;
            told(room, &mut shop).await?;
        }
        writer.stop().await?;
        shop.tally
            .all_once(&shop.sink, &shop.database, MAIN, SOON)
            .await
    })
    .await;
}

/// The listener's status names the owner of each shard, as the Leases do.
async fn told(room: &Room, shop: &mut Shop) -> Result<()> {
    let (shards, took) = until("the status tells who owns what", SOON, async || {
        let fleet = Shop::fleet(room).await?;
        let owners: BTreeMap<i32, String> = fleet
            .shards
            .keys()
            .filter_map(|shard| Some((shard.number.into(), fleet.pod_of(*shard)?.to_owned())))
            .collect();
        let listener = room.api::<ObserverListener>().get(LISTENER).await?;
        resources::condition(&listener, "Ready", "True")?;
        resources::condition(&listener, "DeliveryStalled", "False")?;
        let status = listener.status.unwrap_or_default();
        let told: BTreeMap<i32, String> = status
            .shards
            .iter()
            .map(|shard| (shard.shard, shard.owner.clone()))
            .collect();
        ensure!(
            told == owners,
            "it tells {told:?}, and the Leases {owners:?}"
        );
        ensure!(
            status.shards.iter().all(|shard| shard.epoch > 0),
            "a shard has no epoch: {:?}",
            status.shards
        );
        Ok(told.len())
    })
    .await?;
    shop.tally.count(&shop.sink).await?;
    figure(&format!(
        "  the status tells the owners of {shards} shards {} later",
        seconds(took)
    ));
    Ok(())
}

/// What Leases cost while nothing happens to them, and how long changes wait then.
async fn rests(room: &Room, shop: &mut Shop) -> Result<()> {
    let mut before = Vec::new();
    for pod in names(room).await? {
        let samples = Samples::of(room, &pod).await?;
        before.push((pod, samples, Instant::now()));
    }
    shop.tally.path(MAIN).take_wait();
    let rest = u64::from(rounds(1, 2)) * REST;
    tokio::time::sleep(Duration::from_secs(rest)).await;
    let (mut rates, mut most): (BTreeMap<String, Vec<f64>>, f64) = (BTreeMap::new(), 0.0);
    for (pod, samples, then) in &before {
        let now = Samples::of(room, pod).await?;
        let time = then.elapsed().as_secs_f64();
        let known = samples.by("observer_lease_requests_total", "verb");
        let verbs = now.by("observer_lease_requests_total", "verb");
        ensure!(!verbs.is_empty(), "{pod} counts no requests for Leases");
        let mut total = 0.0;
        for (verb, count) in verbs {
            let rate = (count - known.get(&verb).unwrap_or(&0.0)) / time;
            total += rate;
            rates.entry(verb).or_default().push(rate);
        }
        most = most.max(total);
    }
    let listed: Vec<String> = rates
        .iter()
        .map(|(verb, of_pods)| {
            let each: Vec<String> = of_pods.iter().map(|rate| format!("{rate:.2}")).collect();
            format!("{verb} {}", each.join(" "))
        })
        .collect();
    shop.caught_up().await?;
    figure(&format!(
        "  at rest for {rest} s: requests for Leases of each pod and second: {}; longest wait of a \
         change {} ms",
        listed.join(", "),
        shop.tally.path(MAIN).take_wait().as_millis(),
    ));
    ensure!(
        most <= REQUESTS,
        "a pod made {most:.2} requests for Leases a second"
    );
    Ok(())
}

/// All pods are replaced, one after the other.
async fn rolls_out(room: &Room, shop: &mut Shop) -> Result<()> {
    let gone = Shop::fleet(room).await?.members.into_keys().collect();
    let start = Instant::now();
    roll(room, 1).await?;
    ready(room, LISTENER).await?;
    let wanted = Wanted {
        gone,
        ..Wanted::of(SHARDS, 3)
    };
    let what = "a rollout";
    shop.after(room, what, start, &wanted).await?.once(what)
}

/// All pods are evicted one after the other, as a drain of their node does it: each by the
/// Eviction API, asked again while the budget refuses. The node is not cordoned, because it is the
/// only one, and new pods have nowhere else to go.
async fn drained(room: &Room, shop: &mut Shop) -> Result<()> {
    let gone = Shop::fleet(room).await?.members.into_keys().collect();
    let pods = names(room).await?;
    let start = Instant::now();
    let mut times = Vec::new();
    for pod in &pods {
        // The client asks again by itself, too.
        until(&format!("{pod} is evicted"), LATE, async || {
            let evicted = room.api::<Pod>().evict(pod, &EvictParams::default()).await;
            match evicted {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => Ok(other.map(drop)?),
            }
        })
        .await?;
        times.push(start.elapsed());
    }
    ready(room, LISTENER).await?;
    let wanted = Wanted {
        gone,
        ..Wanted::of(SHARDS, 3)
    };
    let what = format!("{} pods evicted in turn", pods.len());
    shop.after(room, &what, start, &wanted).await?.once(&what)?;
    let listed: Vec<String> = times.iter().map(|time| seconds(*time)).collect();
    figure(&format!("    evicted after {}", listed.join(", ")));
    let (first, last) = (times.first().context("no pods")?, times.last());
    ensure!(
        last.is_some_and(|last| last.saturating_sub(*first) > AT_ONCE),
        "the budget let all pods go at once"
    );
    Ok(())
}
