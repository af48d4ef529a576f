//! Membership of a process in a listener: the shards that it gets, and how it leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::config::ListenerConfig;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};
use lease::membership::{self, MembershipConfig, MembershipStatus, ShardLease};
use lease::{KubeLeaseStore, LeaseStore, Timing};
use sqlx::PgPool;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::metered_store::MeteredLeaseStore;
use super::postgres_lease_store::PostgresLeaseStore;
use super::process;
use crate::database::{DatabaseError, lease_pool};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pool_metrics::WatchedPool;

/// Label of a Lease with the name of its listener.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// How long leaving may take beyond what the Leases need themselves.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Where the processes of a listener coordinate.
#[derive(Clone)]
pub enum Coordination {
    /// In Leases in the listener's namespace.
    Cluster {
        /// Reaches the API server.
        client: Client,
        /// Owners of the shards' Leases.
        owners: Vec<OwnerReference>,
    },
    /// In rows of the listener's database.
    Database,
}

impl std::fmt::Debug for Coordination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cluster { .. } => "Cluster",
            Self::Database => "Database",
        })
    }
}

/// Why a membership ended without a request.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The task panicked.
    #[error("the task that shares the shards with other processes panicked: {0}")]
    Task(#[from] JoinError),
    /// The task ended.
    #[error("the task that shares the shards with other processes has ended")]
    Ended,
}

/// Identity of a process among those of its listener.
#[derive(Clone, Debug)]
pub struct MemberIdentity {
    /// Its name, unique in the listener: in a cluster that of the pod.
    pub name: String,
    /// Distinguishes processes of one name: in a cluster the pod's uid.
    pub uid: String,
}

/// Membership of this process. Dropping it leaves the Leases to expire.
pub(crate) struct Membership {
    /// Leases of shards that this process acquires; ends after [`Membership::leave`] once all are released.
    pub(crate) shard_leases: mpsc::Receiver<ShardLease>,
    /// The state of the membership.
    pub(crate) status: watch::Receiver<MembershipStatus>,
    stop: CancellationToken,
    max_shutdown: Duration,
    task: AbortOnDropHandle<()>,
    // Of the database, if the Leases are stored there.
    pool: Option<(PgPool, WatchedPool)>,
    _ends: DropGuard,
}

impl Membership {
    /// Joins the members of the listener.
    pub(crate) fn join(
        listener: &ListenerConfig,
        member: &MemberIdentity,
        coordination: &Coordination,
        metrics: &Metrics,
    ) -> Result<Self, DatabaseError> {
        let timing = timing(listener);
        let requests = metrics.shards.lease_requests.clone();
        let mut member_owners = Vec::new();
        let mut dead: Arc<dyn Fn(&str) -> bool + Send + Sync> = Arc::new(|_| false);
        let (store, owners, pool): (Arc<dyn LeaseStore>, _, _) = match coordination {
            Coordination::Cluster { client, owners } => {
                let selector = format!("{INSTANCE}={}", listener.name);
                let api = Api::namespaced(client.clone(), &listener.namespace);
                let store = KubeLeaseStore::new(api, selector);
                member_owners.push(pod(member));
                (
                    Arc::new(MeteredLeaseStore::new(store, requests)),
                    owners.clone(),
                    None,
                )
            }
            Coordination::Database => {
                dead = Arc::new(process::ended());
                let pool = lease_pool(&listener.database_url)?;
                let rows = PostgresLeaseStore::new(pool.clone(), &listener.identity());
                (
                    Arc::new(MeteredLeaseStore::new(rows, requests)),
                    Vec::new(),
                    Some((pool.clone(), metrics.pools.watch("leases", &pool))),
                )
            }
        };
        let config = MembershipConfig {
            store,
            listener: listener.name.clone(),
            pod: member.name.clone(),
            uid: member.uid.clone(),
            timing,
            labels: labels(&listener.name),
            shard_lease_owners: owners,
            member_lease_owners: member_owners,
            known_dead: dead,
        };
        let stop = CancellationToken::new();
        let (send, shard_leases) = mpsc::channel(usize::from(listener.shards));
        let (publish, status) = watch::channel(MembershipStatus::default());
        let shards = watch::channel(listener.shards).1;
        let driver = membership::join(config, shards, send, publish, stop.clone());
        Ok(Self {
            shard_leases,
            status,
            _ends: stop.clone().drop_guard(),
            stop,
            max_shutdown: timing.retry_period() * 3 + SHUTDOWN_GRACE,
            task: AbortOnDropHandle::new(tokio::spawn(driver)),
            pool,
        })
    }

    /// Requests the release of all shards.
    pub(crate) fn leave(&self) {
        self.stop.cancel();
    }

    /// Returns whether that was requested.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Returns why it ended without a request.
    pub(crate) async fn failure(&mut self) -> MembershipError {
        match (&mut self.task).await {
            Err(error) => error.into(),
            Ok(()) => MembershipError::Ended,
        }
    }

    /// Leaves after all shards were released, and waits for the end.
    pub(crate) async fn shutdown(mut self) -> Result<(), JoinError> {
        self.leave();
        self.shard_leases.close();
        while self.shard_leases.recv().await.is_some() {}
        let ended = if self.task.is_finished() {
            // How it ended was returned by then.
            Ok(Ok(()))
        } else {
            tokio::time::timeout(self.max_shutdown, &mut self.task).await
        };
        if let Some((pool, _counted)) = self.pool {
            // Whether the connections close in order does not matter.
            let _in_time = tokio::time::timeout(SHUTDOWN_GRACE, pool.close()).await;
        }
        // A Lease that is not released in time expires.
        ended.unwrap_or(Ok(()))
    }
}

/// Returns the times of the listener's Leases. They were validated with the configuration; if the bounds
/// of Leases are narrower, the defaults are used.
fn timing(listener: &ListenerConfig) -> Timing {
    let times = listener.lease;
    Timing::new(times.duration, times.renew_deadline, times.retry_period).unwrap_or_else(|error| {
        tracing::warn!(%error, "using the default times of a lease");
        Timing::default()
    })
}

/// Returns the labels of the Leases, which are those of the listener's other objects.
fn labels(listener: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "observer-listener"),
        (INSTANCE, listener),
        ("app.kubernetes.io/managed-by", "observer-operator"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Returns a pod as the owner of its Lease.
fn pod(member: &MemberIdentity) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: member.name.clone(),
        uid: member.uid.clone(),
        ..OwnerReference::default()
    }
}
