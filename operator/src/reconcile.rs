//! What reconciles have in common: their context, results and errors.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::Semaphore;

use crate::cache::Index;
use crate::listener::ListenerState;
use crate::listener::apply::ApplyError;
use crate::listener::build::Installation;
use crate::listener::pod_status::PodStatusClient;
use crate::object_ref::{ObjectRef, ReconcileRequest};
use crate::publish::Publisher;
use crate::secrets::Secrets;
use crate::telemetry::metrics::Metrics;
use crate::work_queue::ReconcileAction;

/// Most bundles that are compiled at once.
const COMPILATIONS: usize = 2;

/// Context that all reconciles share.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) index: Arc<Mutex<Index>>,
    pub(crate) secrets: Secrets,
    pub(crate) pods: PodStatusClient,
    pub(crate) publisher: Publisher,
    pub(crate) installation: Installation,
    pub(crate) states: Mutex<HashMap<ObjectRef, ListenerState>>,
    pub(crate) metrics: Metrics,
    /// Bundles that are compiled at once; each takes several times the memory of its text.
    pub(crate) compiling: Semaphore,
}

/// Result of a reconcile that did not fail.
#[derive(Debug)]
pub struct ReconcileResult {
    /// What happens to the object next.
    pub action: ReconcileAction,
    /// Other objects that must be reconciled because of it.
    pub also_enqueue: BTreeSet<ReconcileRequest>,
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Secrets could not be read.
    #[error("cannot read Secrets: {0}")]
    Secrets(#[source] kube::Error),
    /// The bundle could not be compiled: a fault of this program.
    #[error("the compilation of the bundle has ended early: {0}")]
    Compile(#[source] tokio::task::JoinError),
    /// An object could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An object could not be built.
    #[error("cannot build the objects: {0}")]
    Build(#[from] serde_json::Error),
    /// The finalizer could not be set or taken away.
    #[error("cannot change the finalizers: {0}")]
    Finalizer(#[source] kube::Error),
    /// The status could not be written.
    #[error("cannot write the status: {0}")]
    Status(#[source] kube::Error),
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl ReconcileResult {
    /// Returns a result that concerns no other object.
    #[must_use]
    pub fn with(action: ReconcileAction) -> Self {
        Self {
            action,
            also_enqueue: BTreeSet::new(),
        }
    }

    /// Returns the result of a failure.
    #[must_use]
    pub fn failed() -> Self {
        Self::with(ReconcileAction::Failed)
    }
}

impl Context {
    /// Creates a context. `instance` is the name of this operator in Events.
    pub fn new(
        client: Client,
        index: Arc<Mutex<Index>>,
        installation: Installation,
        instance: Option<String>,
        metrics: Metrics,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            publisher: Publisher::new(client.clone(), instance),
            client,
            index,
            secrets: Secrets::default(),
            pods: PodStatusClient::new()?,
            installation,
            states: Mutex::default(),
            metrics,
            compiling: Semaphore::new(COMPILATIONS),
        })
    }

    /// Locks the index. The lock must not be held over an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reconciles one object.
    pub async fn reconcile(
        &self,
        request: &ReconcileRequest,
    ) -> Result<ReconcileResult, ReconcileError> {
        let (listeners, observers) = self.index().counts();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.listeners.set(gauge(listeners));
        self.metrics.observers.set(gauge(observers));
        match request {
            ReconcileRequest::Listener(key) => self.reconcile_listener(key).await,
            ReconcileRequest::Observer(key) => self.reconcile_observer(key).await,
        }
    }

    pub(crate) fn states(&self) -> MutexGuard<'_, HashMap<ObjectRef, ListenerState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
