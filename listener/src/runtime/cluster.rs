//! A listener's pod in a cluster: it runs what its bundle says, and shares the shards with the
//! other pods by Leases.
//!
//! Nothing that can be put right from outside ends the process: not a database that is away, not
//! a schema that is missing, not a bundle that is wrong. It is told on `/status` with its remedy
//! and tried again. Meanwhile the pod takes no part, so that others may do the work if they can.
//!
//! The Leases keep the pods from working on the same shard in the ordinary course. That none of
//! them can do harm when that fails, such as a pod that was paused, is what the epochs of the
//! checkpoints are for.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Config};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bundle_watcher;
pub use super::drop_listener::drop_listener;
use super::error::RunError;
use super::plan::Plan;
use super::pod_supervisor::Work;
use super::standalone::{GOODBYE, answer, first_error, note_stop};
use crate::coordination::membership::Member;
use crate::server::AppState;
use crate::telemetry::metrics::Metrics;

/// The plan of the moment; nothing before the first.
pub(super) type Plans = watch::Receiver<Option<Plan>>;

/// Which pod this is, and what it is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the pod, its bundle and the Leases; that of the client if absent.
    pub namespace: Option<String>,
    /// Name of the Secret with the bundle.
    pub bundle: String,
    /// Name of the listener.
    pub listener: String,
    /// The pod.
    pub member: Member,
    /// Whether it works on jobs and on no shard.
    pub only_jobs: bool,
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
    let name = format!("{namespace}/{}", options.listener);
    let metrics = Metrics::new(&name).map_err(RunError::from)?;
    let sources = AppState::new(metrics, options.member.name.as_str());
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
            done.run_until_cancelled(bundle_watcher::follow(secrets, &name, send, sources))
                .await;
            Ok(())
        });
    }
    let work = Work {
        client,
        member: &options.member,
        sources: &sources,
        stop: &stop,
        only_jobs: options.only_jobs,
    };
    let result = tokio::select! {
        result = work.go_on(plans) => result,
        error = first_error(&mut tasks) => Err(error),
    };
    done.cancel();
    let goodbye = async { while tasks.join_next().await.is_some() {} };
    let _in_time = tokio::time::timeout(GOODBYE, goodbye).await;
    Ok(result?)
}
