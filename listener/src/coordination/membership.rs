//! Taking part in the fleet of a listener.

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

use super::metered_store::Counted;
use super::postgres_lease_store::Rows;
use super::process;
use crate::database::{DatabaseError, connections_apart};
use crate::telemetry::metrics::Metrics;

/// Label of a Lease with the name of its listener.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// How long the end may take beyond what the Leases need themselves.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where the processes of a listener find each other.
#[derive(Clone)]
pub enum Coordination {
    /// In a cluster: Leases in the listener's namespace.
    Cluster {
        /// Reaches the API server.
        client: Client,
        /// With whom the shards' Leases go.
        owners: Vec<OwnerReference>,
    },
    /// Without one: rows of the listener's database.
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

/// Why a process takes no part any more, and nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The task died.
    #[error("the task that shares the shards with other processes has died: {0}")]
    Task(#[from] JoinError),
    /// The task ended.
    #[error("the task that shares the shards with other processes has ended")]
    Ended,
}

/// Which process this is.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, unlike that of any other process of the listener: in a cluster that of the pod.
    pub name: String,
    /// Tells it from others of that name: in a cluster the pod's uid.
    pub uid: String,
}

/// A process's part in a fleet. Dropping it leaves the Leases to expire.
pub(crate) struct Fleet {
    /// The shards that become this process's; ends after [`Fleet::leave`] once all are given up.
    pub(crate) holds: mpsc::Receiver<ShardLease>,
    /// How things stand.
    pub(crate) standing: watch::Receiver<MembershipStatus>,
    stop: CancellationToken,
    longest_end: Duration,
    task: AbortOnDropHandle<()>,
    // Of the database, where the Leases are kept there.
    pool: Option<PgPool>,
    _ends: DropGuard,
}

impl Fleet {
    /// Joins.
    pub(crate) fn join(
        listener: &ListenerConfig,
        member: &Member,
        coordination: &Coordination,
        metrics: &Metrics,
    ) -> Result<Self, DatabaseError> {
        let timing = timing(listener);
        let requests = metrics.lease_requests.clone();
        let mut member_owners = Vec::new();
        let mut dead: Arc<dyn Fn(&str) -> bool + Send + Sync> = Arc::new(|_| false);
        let (store, owners, pool): (Arc<dyn LeaseStore>, _, _) = match coordination {
            Coordination::Cluster { client, owners } => {
                let selector = format!("{INSTANCE}={}", listener.name);
                let api = Api::namespaced(client.clone(), &listener.namespace);
                let store = KubeLeaseStore::new(api, selector);
                member_owners.push(pod(member));
                (
                    Arc::new(Counted::new(store, requests)),
                    owners.clone(),
                    None,
                )
            }
            Coordination::Database => {
                dead = Arc::new(process::ended());
                let pool = connections_apart(&listener.database_url)?;
                let rows = Rows::new(pool.clone(), &listener.identity());
                (
                    Arc::new(Counted::new(rows, requests)),
                    Vec::new(),
                    Some(pool),
                )
            }
        };
        let options = MembershipConfig {
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
        let (send, holds) = mpsc::channel(usize::from(listener.shards));
        let (tell, standing) = watch::channel(MembershipStatus::default());
        let shards = watch::channel(listener.shards).1;
        let taking_part = membership::join(options, shards, send, tell, stop.clone());
        Ok(Self {
            holds,
            standing,
            _ends: stop.clone().drop_guard(),
            stop,
            longest_end: timing.retry_period() * 3 + GOODBYE,
            task: AbortOnDropHandle::new(tokio::spawn(taking_part)),
            pool,
        })
    }

    /// Asks for all shards to be given up.
    pub(crate) fn leave(&self) {
        self.stop.cancel();
    }

    /// Whether that was asked for.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// How it ended without being asked to.
    pub(crate) async fn broken(&mut self) -> MembershipError {
        match (&mut self.task).await {
            Err(error) => error.into(),
            Ok(()) => MembershipError::Ended,
        }
    }

    /// Waits for the end, after all shards were let go of.
    pub(crate) async fn left(mut self) -> Result<(), JoinError> {
        self.leave();
        self.holds.close();
        while self.holds.recv().await.is_some() {}
        let ended = if self.task.is_finished() {
            // How, is told by then.
            Ok(Ok(()))
        } else {
            tokio::time::timeout(self.longest_end, &mut self.task).await
        };
        if let Some(pool) = self.pool {
            // Whether the goodbye arrives does not matter.
            let _in_time = tokio::time::timeout(GOODBYE, pool.close()).await;
        }
        // What is late is left to expire.
        ended.unwrap_or(Ok(()))
    }
}

/// What was checked where it was written; should the Lease's own bounds be narrower, its defaults.
fn timing(listener: &ListenerConfig) -> Timing {
    let times = listener.lease;
    Timing::new(times.duration, times.renew_deadline, times.retry_period).unwrap_or_else(|error| {
        tracing::warn!(%error, "using the default times of a lease");
        Timing::default()
    })
}

/// Labels of the Leases, as the listener's other objects have them.
fn labels(listener: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "observer-listener"),
        (INSTANCE, listener),
        ("app.kubernetes.io/managed-by", "observer-operator"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A pod, as the owner of its Lease.
fn pod(member: &Member) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: member.name.clone(),
        uid: member.uid.clone(),
        ..OwnerReference::default()
    }
}
