//! Life cycle of the operator: leader election, watches, reconciles, and the release of the Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::coordination::v1::Lease;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};
use lease::{Elector, Identity, Timing};
use server::metrics_access::{self, MetricsAccess};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequestLayer;

use crate::cache::Index;
use crate::cache::watcher::{CacheWriter, PENDING_CHANGES, Watches};
use crate::controller;
use crate::http::{AppState, serve};
use crate::listener::build::{FIELD_MANAGER, Installation};
use crate::object_ref::ReconcileRequest;
use crate::reconcile::Context;
use crate::telemetry::metrics::Metrics;

/// Name of the Lease that the leader holds.
const LEASE: &str = "observer-operator";

/// What lets the operator ask whose a token is.
const ASKING: &str = "bind system:auth-delegator to the operator's service account, as the chart does with \
                      metrics.authorize and rbac.create";

/// Settings of the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespaces to serve; all where none is given.
    pub namespaces: Vec<String>,
    /// What goes into the objects of every listener.
    pub installation: Installation,
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// Namespace of the Lease; without one there is no leader election.
    pub lease_namespace: Option<String>,
    /// Name of this pod.
    pub pod_name: String,
    /// Uid of this pod.
    pub pod_uid: String,
    /// Concurrent reconciles.
    pub concurrency: usize,
}

/// Runs the operator until `stop`.
pub async fn run(
    mut config: Config,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::new()?;
    // Failures are tried again with what was learned meanwhile, not as they were.
    config.default_retry = false;
    let client = client(config, &metrics)?;
    let ready = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind(settings.listen).await?;
    let sources = AppState {
        metrics: metrics.clone(),
        metrics_access: metrics_access(&client, &settings),
        ready: ready.clone(),
    };
    let serving = serve(listener, sources, stop.clone());
    let working = async {
        let ended = run_elected(&client, &settings, &metrics, &ready, &stop).await;
        // The server ends with the controller.
        stop.cancel();
        ended
    };
    let ((), result) = tokio::join!(serving, working);
    result
}

fn metrics_access(client: &Client, settings: &Settings) -> MetricsAccess {
    if settings.installation.authorize_metrics {
        MetricsAccess::authorized(client, metrics_access::MAX_AGE, ASKING)
    } else {
        MetricsAccess::default()
    }
}

fn client(config: Config, metrics: &Metrics) -> anyhow::Result<Client> {
    let requests = metrics.api_requests.clone();
    let count = MapRequestLayer::new(move |request: http::Request<_>| {
        requests
            .with_label_values(&[request.method().as_str()])
            .inc();
        request
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&count).build())
}

async fn run_elected(
    client: &Client,
    settings: &Settings,
    metrics: &Metrics,
    ready: &AtomicBool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(namespace) = &settings.lease_namespace else {
        metrics.leader.set(1);
        return run_controller(client, settings, metrics, ready, stop).await;
    };
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let identity = Identity::new(&settings.pod_name, &settings.pod_uid);
    let labels = BTreeMap::from([(
        "app.kubernetes.io/name".to_owned(),
        FIELD_MANAGER.to_owned(),
    )]);
    let mut elector = Elector::new(api, LEASE, identity, Timing::default(), labels);
    ready.store(true, Ordering::Relaxed);
    let Some(leadership) = elector.acquire(stop).await else {
        return Ok(());
    };
    ready.store(false, Ordering::Relaxed);
    metrics.leader.set(1);
    let lost = leadership.lost().clone();
    let result = tokio::select! {
        result = run_controller(client, settings, metrics, ready, stop) => result,
        () = lost.cancelled() => Err(anyhow::anyhow!("leadership lost")),
    };
    metrics.leader.set(0);
    leadership.release().await;
    result
}

async fn run_controller(
    client: &Client,
    settings: &Settings,
    metrics: &Metrics,
    ready: &AtomicBool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let index = Arc::new(Mutex::new(Index::default()));
    let (changes, received) = mpsc::channel(PENDING_CHANGES);
    let writer = CacheWriter {
        index: index.clone(),
        changes,
    };
    let instance = Some(settings.pod_name.clone());
    let given = settings.installation.clone();
    let context = Context::new(client.clone(), index, given, instance, metrics.clone())?;
    let mut watches = Watches::start(client, &settings.namespaces, &writer);
    let listed = tokio::select! {
        () = stop.cancelled() => None,
        received = all_listed(&watches, received) => Some(received),
    };
    let Some(received) = listed else {
        return Ok(());
    };
    ready.store(true, Ordering::Relaxed);
    tracing::info!("caches synced");
    let concurrency = settings.concurrency;
    tokio::select! {
        () = controller::run(Arc::new(context), received, concurrency, stop.clone()) => Ok(()),
        error = watches.ended() => Err(error),
    }
}

/// Waits until every watch has listed its objects. Requests until then are dropped, because every
/// object is enqueued afterwards.
async fn all_listed(
    watches: &Watches,
    mut changes: mpsc::Receiver<BTreeSet<ReconcileRequest>>,
) -> mpsc::Receiver<BTreeSet<ReconcileRequest>> {
    loop {
        tokio::select! {
            () = watches.all_listed() => return changes,
            _ = changes.recv() => {}
        }
    }
}
