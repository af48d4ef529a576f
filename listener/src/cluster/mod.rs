//! A listener's pod in a cluster: it runs what its bundle says while it holds the Lease, and
//! stands by while another pod does.
//!
//! Nothing that can be put right from outside ends the process: not a database that is away, not
//! a schema that is missing, not a bundle that is wrong. It is told on `/status` with its remedy
//! and tried again. The Lease is kept meanwhile: all pods of a listener use the same database by
//! the same bundle, so another would fare no better, and the one that holds it is the one to ask.
//!
//! The Lease keeps the pods from working at once in the ordinary course. That none of them can
//! do harm when it fails, such as to a pod that was paused, is what the epochs of the checkpoints
//! are for.

mod bundle;
mod plan;
mod trouble;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crds::config::LeaseConfig;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Config};
use lease::{Elector, Identity, Leadership, Timing};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::Sources;
use crate::run::{GOODBYE, RunError, answer, note_stop};
use crate::telemetry::metrics::Metrics;
use plan::Plan;
use work::{Ending, Work};

/// The plan of the moment; nothing before the first.
type Plans = watch::Receiver<Option<Plan>>;

/// Which pod this is, and what it is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the pod, its bundle and its Lease; that of the client if absent.
    pub namespace: Option<String>,
    /// Name of the Secret with the bundle.
    pub bundle: String,
    /// Name of the Lease.
    pub lease: String,
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Where to answer `/healthz`, `/readyz`, `/metrics` and `/status`; nowhere if absent.
    pub listen: Option<SocketAddr>,
}

/// Why the process ends other than by a stop.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no cluster to ask.
    #[error(
        "cannot tell how to reach the cluster: {0}. Run it in a pod, name a cluster with KUBECONFIG, or run files with -f FILE"
    )]
    NoCluster(#[source] kube::Error),
    /// What makes a listener anywhere is missing.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A client that leaves it to its user to try again, with what was learned meanwhile.
async fn client() -> Result<Client, kube::Error> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.default_retry = false;
    Client::try_from(config)
}

/// Runs until `stop`.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), ClusterError> {
    let client = client().await.map_err(ClusterError::NoCluster)?;
    let namespace = options
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    // The bundle may come late, and what is measured has a name from the start.
    let name = options.lease.strip_suffix("-listener");
    let name = name.unwrap_or(&options.lease);
    let metrics = Metrics::new(&format!("{namespace}/{name}")).map_err(RunError::from)?;
    let sources = Sources::new(metrics, options.pod.as_str());
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let done = CancellationToken::new();
    if let Some(at) = options.listen {
        answer(at, &mut tasks, &sources, &done).await?;
    }
    tasks.spawn(note_stop(stop.clone(), done.clone(), sources.clone()));
    let (send, plans) = watch::channel(None);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    {
        let (sources, done) = (sources.clone(), done.clone());
        let name = options.bundle.clone();
        tasks.spawn(async move {
            done.run_until_cancelled(bundle::follow(secrets, &name, send, sources))
                .await;
            Ok(())
        });
    }
    let pod = Pod {
        leases: Api::namespaced(client, &namespace),
        lease: options.lease,
        identity: Identity::new(&options.pod, &options.uid),
        sources,
        plans,
        stop,
    };
    let result = tokio::select! {
        result = pod.live() => result,
        error = crate::run::first_error(&mut tasks) => Err(error),
    };
    done.cancel();
    let goodbye = async { while tasks.join_next().await.is_some() {} };
    let _in_time = tokio::time::timeout(GOODBYE, goodbye).await;
    Ok(result?)
}

/// One pod, from its start to its end.
struct Pod {
    leases: Api<Lease>,
    lease: String,
    identity: Identity,
    sources: Sources,
    plans: Plans,
    stop: CancellationToken,
}

impl Pod {
    /// Stands by and leads by turns.
    async fn live(mut self) -> Result<(), RunError> {
        loop {
            let Some((times, leadership)) = self.stand_by().await else {
                return Ok(());
            };
            self.sources.metrics.leader.set(1);
            let lost = leadership.lost().clone();
            let work = Work {
                holder: self.identity.as_str(),
                sources: &self.sources,
                times,
                stop: &self.stop,
            };
            let ending = tokio::select! {
                biased;
                // What is under way is dropped: another pod may have begun it already.
                () = lost.cancelled() => Ending::Lost,
                ending = work.go_on(&mut self.plans) => ending,
            };
            self.sources.metrics.leader.set(0);
            match ending {
                Ending::Lost => {
                    tracing::warn!(lease = self.lease, "no longer the one to work; standing by");
                }
                Ending::Stopped => {
                    leadership.release().await;
                    return Ok(());
                }
                Ending::OtherTimes => leadership.release().await,
                Ending::Broken(error) => {
                    leadership.release().await;
                    return Err(error);
                }
            }
        }
    }

    /// Waits for a plan, and then for the Lease. Nothing after a stop.
    async fn stand_by(&mut self) -> Option<(LeaseConfig, Leadership)> {
        loop {
            let plan = self.plan().await?;
            self.sources.reporter.stands_by();
            self.sources.health.idle();
            let times = plan.listener.lease;
            let api = self.leases.clone();
            let labels = labels(&plan.listener.name);
            let (name, me) = (self.lease.as_str(), self.identity.clone());
            let mut elector =
                Elector::new(api, name, me, timing(times), labels).owned_by(plan.owners);
            // It must be asked to end rather than dropped, lest it leave a Lease held by nobody.
            let waiting = self.stop.child_token();
            let mut acquiring = std::pin::pin!(elector.acquire(&waiting));
            let acquired = loop {
                tokio::select! {
                    acquired = &mut acquiring => break acquired,
                    () = other_times(&mut self.plans, times), if !waiting.is_cancelled() => waiting.cancel(),
                }
            };
            match acquired {
                Some(leadership) => return Some((times, leadership)),
                None if self.stop.is_cancelled() => return None,
                None => {}
            }
        }
    }

    /// The plan of the moment, or the first. Nothing after a stop.
    async fn plan(&mut self) -> Option<Plan> {
        let there = self.plans.wait_for(Option::is_some);
        let found = self.stop.run_until_cancelled(there).await;
        found?.ok()?.clone()
    }
}

/// Waits for a plan with other times of the Lease.
async fn other_times(plans: &mut Plans, times: LeaseConfig) {
    let others = plans.wait_for(|plan| {
        plan.as_ref()
            .is_some_and(|plan| plan.listener.lease != times)
    });
    if others.await.is_err() {
        // The task that loads bundles is gone, which its owner sees.
        std::future::pending::<()>().await;
    }
}

/// What was checked where it was written; should the Lease's own bounds be narrower, its defaults.
fn timing(times: LeaseConfig) -> Timing {
    Timing::new(times.duration, times.renew_deadline, times.retry_period).unwrap_or_else(|error| {
        tracing::warn!(%error, "using the default times of a lease");
        Timing::default()
    })
}

/// Labels of the Lease, as the listener's other objects have them.
fn labels(listener: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "observer-listener"),
        ("app.kubernetes.io/instance", listener),
        ("app.kubernetes.io/managed-by", "observer-operator"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
