//! Steps against a listener of several pods under writers, and what each of them did: when every
//! shard had an owner again, when they were shared out evenly, and what arrived meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use super::{MAIN, Shop, ready};
use crate::support::figures::{figure, seconds};
use crate::support::fleet::Fleet;
use crate::support::room::Room;
use crate::support::wait::{LATE, until};
use crate::support::writer::Writer;

/// Changes a second.
pub(super) const RATE: u32 = 500;

/// Name of the listener.
pub(super) const LISTENER: &str = "shop";

/// Selects its pods.
pub(super) const PODS: &str =
    "app.kubernetes.io/instance=shop,app.kubernetes.io/name=observer-listener";

/// Most repeats of one fault. A pod that catches up delivers some thousand a second and saves four
/// times in it; one that began again at an old position would make more.
const MOST_REPEATS: u64 = 3_000;

/// What is to be after a step.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Shards.
    pub(super) shards: u16,
    /// Pods that take part.
    pub(super) members: usize,
    /// Identities that may own nothing any more.
    pub(super) gone: BTreeSet<String>,
}

impl Wanted {
    /// So many shards and members.
    pub(super) fn of(shards: u16, members: usize) -> Self {
        Self {
            shards,
            members,
            gone: BTreeSet::new(),
        }
    }

    /// The same without an identity.
    pub(super) fn without(mut self, identity: String) -> Self {
        self.gone.insert(identity);
        self
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Did {
    /// Deliveries that were repeated.
    repeated: u64,
}

impl Shop {
    /// What the Leases say now.
    pub(super) async fn fleet(room: &Room) -> Result<Fleet> {
        Fleet::look(room, LISTENER).await
    }

    /// Waits until all that is committed by now has arrived.
    pub(super) async fn caught_up(&mut self) -> Result<()> {
        let (committed, _) = until("the database answers", LATE, async || {
            self.database.committed().await
        })
        .await?;
        self.tally
            .arrived(&self.sink, &self.database, (MAIN, &committed), LATE)
            .await
    }

    /// Waits until every shard has an owner and gives the time since `start`.
    pub(super) async fn owned(room: &Room, start: Instant, wanted: &Wanted) -> Result<Duration> {
        until("every shard has an owner", LATE, async || {
            Self::fleet(room).await?.owned(wanted.shards, &wanted.gone)
        })
        .await?;
        Ok(start.elapsed())
    }

    /// Waits until the shards are shared out evenly, too.
    pub(super) async fn shared(room: &Room, start: Instant, wanted: &Wanted) -> Result<Duration> {
        until("the shards are shared out evenly", LATE, async || {
            let fleet = Self::fleet(room).await?;
            fleet.owned(wanted.shards, &wanted.gone)?;
            fleet.shared(wanted.shards, wanted.members)
        })
        .await?;
        Ok(start.elapsed())
    }

    /// Has writers change rows at [`RATE`], and takes the listener to where it is at rest under them.
    pub(super) async fn under_writers(&mut self, room: &Room, wanted: &Wanted) -> Result<Writer> {
        let writer = Writer::start(&self.database.pool, RATE);
        self.more(MAIN, 200).await?;
        self.rested(room, wanted).await?;
        Ok(writer)
    }

    /// Takes a listener to where it is at rest, and forgets what was measured on the way.
    pub(super) async fn rested(&mut self, room: &Room, wanted: &Wanted) -> Result<()> {
        Self::shared(room, Instant::now(), wanted).await?;
        self.caught_up().await?;
        self.tally.path(MAIN).take_wait();
        Ok(())
    }

    /// Waits for what a step that began at `start` has to lead to, and prints what it did.
    pub(super) async fn after(
        &mut self,
        room: &Room,
        what: &str,
        start: Instant,
        wanted: &Wanted,
    ) -> Result<Did> {
        let known = self.tally.path(MAIN).repeated();
        let owned = Self::owned(room, start, wanted).await?;
        let (caught_up, shared) = tokio::join!(
            async {
                self.caught_up().await?;
                anyhow::Ok((start.elapsed(), self.tally.path(MAIN).take_wait()))
            },
            Self::shared(room, start, wanted),
        );
        let ((caught_up, pause), shared) = (caught_up?, shared?);
        self.caught_up().await?;
        let path = self.tally.path(MAIN);
        let after = path.take_wait();
        let (repeated, disordered) = (path.repeated() - known, path.disordered);
        figure(&format!(
            "  {what}: every shard has an owner after {}, its fair share after {}; caught up after \
             {}; longest wait of a change {} ms, of one since then {} ms; 0 lost, {repeated} \
             repeated, {disordered} out of order",
            seconds(owned),
            seconds(shared),
            seconds(caught_up),
            pause.as_millis(),
            after.as_millis(),
        ));
        ensure!(disordered == 0, "{what}: {disordered} out of order");
        Ok(Did { repeated })
    }

    /// The address that a pod calls from.
    pub(super) async fn address(room: &Room, pod: &str) -> Result<String> {
        let pod = room.api::<Pod>().get(pod).await?;
        pod.status
            .and_then(|status| status.pod_ip)
            .context("the pod has no address")
    }
}

impl Did {
    /// Fails if a step that was planned made anything come twice.
    pub(super) fn once(self, what: &str) -> Result<()> {
        ensure!(self.repeated == 0, "{what}: {} repeated", self.repeated);
        Ok(())
    }

    /// Fails if a fault made more come twice than can have been under way.
    pub(super) fn seldom_twice(self, what: &str) -> Result<()> {
        ensure!(
            self.repeated <= MOST_REPEATS,
            "{what}: {} repeated, more than can have been under way",
            self.repeated
        );
        Ok(())
    }
}

/// Names of the listener's pods that stay.
pub(super) async fn names(room: &Room) -> Result<Vec<String>> {
    let pods = room.pods(PODS).await?;
    Ok(pods.iter().map(ResourceExt::name_any).collect())
}

/// Sets the number of pods, as a user does.
pub(super) async fn scale(room: &Room, replicas: usize) -> Result<()> {
    let namespace = &room.namespace;
    let count = format!("--replicas={replicas}");
    let resource = format!("observerlistener/{LISTENER}");
    room.cluster
        .kubectl(&["scale", "--namespace", namespace, &resource, &count])
        .await
        .map(drop)
}

/// Sets the number of shards.
pub(super) async fn divide(room: &Room, shards: u16) -> Result<()> {
    room.merge::<ObserverListener>(LISTENER, json!({"spec": {"shards": shards}}))
        .await
        .map(drop)
}

/// Begins a rollout.
pub(super) async fn roll(room: &Room, round: u64) -> Result<()> {
    let annotations = json!({"example.com/round": round.to_string()});
    let template = json!({"spec": {"podTemplate": {"annotations": annotations}}});
    room.merge::<ObserverListener>(LISTENER, template)
        .await
        .map(drop)
}

/// Puts other pods in the place of those whose container waits, after a crash, to be started
/// again, and waits until the listener is ready. The kubelet makes it wait longer each time.
pub(super) async fn without_back_off(room: &Room) -> Result<ObserverListener> {
    for pod in room.pods(PODS).await? {
        let statuses = pod.status.as_ref();
        let statuses = statuses.and_then(|status| status.container_statuses.as_ref());
        let waits = statuses.into_iter().flatten().any(|status| {
            let state = status.state.as_ref();
            let waiting = state.and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
        });
        if waits {
            room.api::<Pod>()
                .delete(&pod.name_any(), &DeleteParams::default())
                .await?;
        }
    }
    ready(room, LISTENER).await
}
