//! Pods for jobs alone: they do all of a queued action's work, one that is killed loses nothing,
//! and without any the listener's own pods go on.

use std::time::Instant;

use anyhow::{Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use kube::ResourceExt;
use serde_json::json;

use super::steps::{LISTENER, PODS};
use super::{MAIN, Shop, programmed};
use crate::support::figures::{figure, seconds};
use crate::support::node::Node;
use crate::support::room::{Room, scenario};
use crate::support::samples::Samples;
use crate::support::wait::{LATE, until};
use crate::support::writer::Writer;
use crate::support::{installation, resources};

/// Changes a second.
const RATE: u32 = 200;

/// Selects the pods for jobs.
const WORKERS: &str = "app.kubernetes.io/instance=shop,app.kubernetes.io/name=observer-worker";

/// How long after a kill the jobs of the pod are others', in seconds.
const LEASE: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn pods_for_jobs_alone_work_on_what_is_queued() {
    scenario("workers", async |room| {
        installation::installed(&room.cluster).await?;
        let mut listener = resources::listener(LISTENER, 2);
        listener["spec"]["queue"] = json!({
            "workers": {"replicas": 2, "concurrency": 8},
            "workerLeaseDuration": format!("{LEASE}s"),
        });
        let mut shop = Shop::open_as(room, &listener).await?;
        let mut queued = resources::observer("main", &shop.sink.url("main"));
        queued["spec"]["actions"][0]["mode"] = json!("Queued");
        room.apply::<Observer>(&queued).await?;
        programmed(room, "main").await?;
        ready(room, 2).await?;

        let writer = Writer::start(&shop.database.pool, RATE);
        shop.more(MAIN, 500).await?;
        let (workers, others) = (finished(room, WORKERS).await?, finished(room, PODS).await?);
        figure(&format!(
            "{RATE} changes a second, all queued: {workers} jobs by two pods for jobs, {others} by the listener's own"
        ));
        ensure!(workers > 0.0 && others == 0.0, "others work on jobs");
        killed(room, &mut shop).await?;

        let start = Instant::now();
        let none = json!({"spec": {"queue": {"workers": {"replicas": 0}}}});
        room.merge::<ObserverListener>(LISTENER, none).await?;
        until("the pods for jobs are gone", LATE, async || {
            let left = room.pods(WORKERS).await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await?;
        super::ready(room, LISTENER).await?;
        shop.more(MAIN, 500).await?;
        figure(&format!(
            "  without pods for jobs, {} later: {} jobs by the listener's own",
            seconds(start.elapsed()),
            finished(room, PODS).await?
        ));
        writer.stop().await?;
        shop.tally
            .all_in_order(&shop.sink, &shop.database, MAIN, LATE)
            .await
    })
    .await;
}

/// Kills a pod for jobs; what it held is done by the other one.
async fn killed(room: &Room, shop: &mut Shop) -> Result<()> {
    let pods = room.pods(WORKERS).await?;
    let victim = pods.first().map(ResourceExt::name_any).unwrap_or_default();
    let known = shop.tally.path(MAIN).repeated();
    let start = Instant::now();
    Node::of(&room.cluster)?.kill(room, &victim).await?;
    shop.caught_up().await?;
    let path = shop.tally.path(MAIN);
    figure(&format!(
        "  kill -9 of one of them: all that was committed has arrived after {} (lease {LEASE} s), {} repeated",
        seconds(start.elapsed()),
        path.repeated() - known,
    ));
    ready(room, 2).await
}

/// Waits until so many pods for jobs are ready.
async fn ready(room: &Room, count: i32) -> Result<()> {
    until("the pods for jobs are ready", LATE, async || {
        let listener = room.api::<ObserverListener>().get(LISTENER).await?;
        let workers = listener.status.unwrap_or_default().workers;
        let ready = workers.map_or(0, |workers| workers.ready_replicas);
        ensure!(ready == count, "{ready} of {count} are");
        Ok(())
    })
    .await
    .map(drop)
}

/// Jobs that pods have finished.
async fn finished(room: &Room, labels: &str) -> Result<f64> {
    let mut finished = 0.0;
    for pod in room.pods(labels).await? {
        let samples = Samples::of(room, &pod.name_any()).await?;
        finished += samples.sum("observer_job_executions_total").unwrap_or(0.0);
    }
    Ok(finished)
}
