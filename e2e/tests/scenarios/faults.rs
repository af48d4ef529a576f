//! What goes wrong in pods, Leases and the database: a process that is killed, one that is paused
//! and goes on later, Leases deleted by hand, a Postgres that is started again. Nothing is lost and
//! every key stays in order; what comes twice is counted, and is not more than was under way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;

use super::steps::{RATE, Wanted};
use super::{MAIN, Shop};
use crate::support::figures::{figure, seconds};
use crate::support::node::{Node, Signal};
use crate::support::room::{Room, scenario};
use crate::support::samples::Samples;
use crate::support::wait::{LATE, SOON, until};
use crate::support::{database, installation};

/// Shards of the listener.
const SHARDS: u16 = 8;

/// How long a process is paused.
const PAUSE: Duration = Duration::from_secs(40);

/// How long of that the kubelet does not look, or it would end a pod that does not answer, and no
/// paused process would ever go on: ten seconds less than a third failed probe takes from there.
/// The node must be heard of every 50 s.
const UNSEEN: Duration = Duration::from_secs(32);

/// Most pauses until one is seen whose saves are refused: when a process goes on, its Lease's timer
/// and a save are due at once, and the timer may be first for all of its shards.
const PAUSES: usize = 3;

/// How long a process that goes on may take to come to its first save.
const FIRST_SAVE: Duration = Duration::from_secs(3);

/// Attempts that a pod may have under way, as the listener has it by default.
const IN_FLIGHT: usize = 64;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn faults_lose_nothing_and_keep_the_order() {
    scenario("faults", async |room| {
        installation::installed(&room.cluster).await?;
        let node = Node::of(&room.cluster)?;
        let mut shop = Shop::open(room, 3).await?;
        figure(&format!(
            "faults of three replicas under {RATE} rows a second:"
        ));
        let writer = shop.under_writers(room, &Wanted::of(SHARDS, 3)).await?;

        killed(room, &mut shop, &node).await?;
        paused(room, &mut shop, &node).await?;
        shard_lease_deleted(room, &mut shop).await?;
        member_lease_deleted(room, &mut shop).await?;
        for (what, signal) in [
            ("Postgres restarted (fast)", Signal::Interrupt),
            ("Postgres restarted (immediate)", Signal::Quit),
        ] {
            postgres_restarts(room, &mut shop, &node, what, signal).await?;
        }

        let failed = writer.stop().await?;
        figure(&format!("  {failed} statements of the writer failed"));
        shop.tally
            .all_in_order(&shop.sink, &shop.database, MAIN, SOON)
            .await
    })
    .await;
}

/// A pod that owns as many shards as any, and its identity.
pub(super) async fn victim(room: &Room) -> Result<(String, String)> {
    let fleet = Shop::fleet(room).await?;
    let pod = fleet.owners().into_iter().next();
    let pod = pod.context("no pod owns a shard")?;
    let identity = fleet.identity(&pod)?;
    Ok((pod, identity))
}

async fn killed(room: &Room, shop: &mut Shop, node: &Node) -> Result<()> {
    let (pod, identity) = victim(room).await?;
    let wanted = Wanted::of(SHARDS, 3).without(identity);
    let start = Instant::now();
    node.kill(room, &pod).await?;
    let what = "kill -9 of a pod's process";
    shop.after(room, what, start, &wanted)
        .await?
        .seldom_twice(what)
}

/// A process is paused until others have long taken over, and goes on: its saves are refused, and
/// it sends nothing more but what it had under way.
async fn paused(room: &Room, shop: &mut Shop, node: &Node) -> Result<()> {
    for _ in 0..PAUSES {
        if paused_once(room, shop, node).await? > 0.0 {
            return Ok(());
        }
    }
    bail!("no save was refused in {PAUSES} pauses")
}

/// Pauses a process once and gives how many of its saves were refused.
async fn paused_once(room: &Room, shop: &mut Shop, node: &Node) -> Result<f64> {
    let (pod, identity) = victim(room).await?;
    let wanted = Wanted::of(SHARDS, 3).without(identity);
    let address = Shop::address(room, &pod).await?;
    let process = node.process(room, &pod).await?;
    let known = fenced(room, &pod).await?;
    let start = Instant::now();

    // Whatever comes, both go on.
    let meanwhile = stands_still(room, shop, node, process, start, &wanted).await;
    let seen = node.resume_kubelet().await;
    let resumed = chrono::Utc::now().timestamp_micros();
    let goes_on = node.signal(process, Signal::Continue).await;
    let pause = meanwhile?;
    seen.and(goes_on)?;

    let refused = until("a save is refused", FIRST_SAVE, async || {
        let refused = fenced(room, &pod).await? - known;
        ensure!(refused > 0.0, "none is");
        Ok(refused)
    })
    .await
    .map_or(0.0, |(refused, _)| refused);
    let what = format!("a process goes on after {} s", PAUSE.as_secs());
    shop.after(room, &what, Instant::now(), &wanted)
        .await?
        .seldom_twice(&what)?;
    let repeats = &shop.tally.path(MAIN).repeats;
    let late = repeats
        .iter()
        .filter(|repeat| repeat.from == address && repeat.at >= resumed)
        .count();
    figure(&format!(
        "    taken over after {} of pause; going on, it had {refused} saves refused and sent {late} \
         that others had sent",
        seconds(pause)
    ));
    ensure!(
        late <= IN_FLIGHT,
        "{pod} sent {late} after its deadline, and had {IN_FLIGHT} under way at most"
    );
    if refused > 0.0 {
        let logs = ["logs", "--namespace", &room.namespace, &pod, "--tail=-1"];
        let logs = room.cluster.kubectl(&logs).await?;
        ensure!(logs.contains("fenced"), "{pod} does not log that");
    }
    Ok(refused)
}

/// Pauses a process, and gives the time until others had taken over its shards.
async fn stands_still(
    room: &Room,
    shop: &mut Shop,
    node: &Node,
    process: u32,
    start: Instant,
    wanted: &Wanted,
) -> Result<Duration> {
    node.pause_kubelet().await?;
    node.signal(process, Signal::Stop).await?;
    let what = "a process paused";
    let owned = Shop::owned(room, start, wanted).await?;
    shop.caught_up().await?;
    let path = shop.tally.path(MAIN);
    figure(&format!(
        "  {what}: every shard has an owner after {}; longest wait of a change {} ms",
        seconds(owned),
        path.take_wait().as_millis(),
    ));
    tokio::time::sleep_until((start + UNSEEN).into()).await;
    node.resume_kubelet().await?;
    tokio::time::sleep_until((start + PAUSE).into()).await;
    shop.caught_up().await?;
    Ok(owned)
}

/// How many saves of a pod were refused.
async fn fenced(room: &Room, pod: &str) -> Result<f64> {
    let samples = Samples::of(room, pod).await?;
    samples
        .sum("observer_checkpoint_fenced_total")
        .context("the pod does not count the saves that are refused")
}

async fn shard_lease_deleted(room: &Room, shop: &mut Shop) -> Result<()> {
    let fleet = Shop::fleet(room).await?;
    let (shard, (name, uid)) = fleet.leases.first_key_value().context("no shard's Lease")?;
    let owner = fleet.pod_of(*shard).context("no owner")?;
    let start = Instant::now();
    room.delete::<Lease>(name).await?;
    let (same, took) = until("the Lease is made again", LATE, async || {
        let fleet = Shop::fleet(room).await?;
        let (_, now) = fleet.leases.get(shard).context("it is not there")?;
        ensure!(now != uid, "it is still the one that was deleted");
        let owner_now = fleet.pod_of(*shard).context("it has no owner")?;
        Ok(owner_now == owner)
    })
    .await?;
    let what = "a shard's Lease deleted";
    shop.after(room, what, start, &Wanted::of(SHARDS, 3))
        .await?
        .seldom_twice(what)?;
    let by = if same { "its owner" } else { "another" };
    figure(&format!("    made again by {by} after {}", seconds(took)));
    Ok(())
}

async fn member_lease_deleted(room: &Room, shop: &mut Shop) -> Result<()> {
    let (pod, identity) = victim(room).await?;
    let wanted = Wanted::of(SHARDS, 3).without(identity);
    let start = Instant::now();
    room.delete::<Lease>(&pod).await?;
    let what = "a member's Lease deleted";
    shop.after(room, what, start, &wanted)
        .await?
        .seldom_twice(what)
}

async fn postgres_restarts(
    room: &Room,
    shop: &mut Shop,
    node: &Node,
    what: &str,
    signal: Signal,
) -> Result<()> {
    let restarts = restarts(room).await?;
    let start = Instant::now();
    postgres_signal(room, node, signal).await?;
    until("Postgres has been started again", LATE, async || {
        let now = self::restarts(room).await?;
        ensure!(now > restarts, "it has been {now} times");
        Ok(())
    })
    .await?;
    let away = start.elapsed();
    shop.after(room, what, start, &Wanted::of(SHARDS, 3))
        .await?
        .seldom_twice(what)?;
    figure(&format!(
        "    its container ran again after {}",
        seconds(away)
    ));
    Ok(())
}

/// Sends a signal to the database.
pub(super) async fn postgres_signal(room: &Room, node: &Node, signal: Signal) -> Result<()> {
    let process = node.process(room, database::NAME).await?;
    node.signal(process, signal).await
}

/// How often the database's container was started again.
async fn restarts(room: &Room) -> Result<i32> {
    let pod = room.api::<Pod>().get(database::NAME).await?;
    let statuses = pod.status.and_then(|status| status.container_statuses);
    let status = statuses.into_iter().flatten().next();
    Ok(status.context("no container")?.restart_count)
}
