//! One piece of work from its beginning to its end: dereference, validate, build, apply, update the
//! status.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::Timestamp;
use kube::Client;

use crate::cache::Index;
use crate::listener::Memory;
use crate::listener::apply::ApplyError;
use crate::listener::build::Installation;
use crate::listener::pod_status::Reporter;
use crate::object_ref::{Key, Work};
use crate::publish::Publisher;
use crate::secrets::Secrets;
use crate::telemetry::metrics::Metrics;
use crate::work_queue::Outcome;

/// What every reconcile has at hand.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) index: Arc<Mutex<Index>>,
    pub(crate) secrets: Secrets,
    pub(crate) pods: Reporter,
    pub(crate) publisher: Publisher,
    pub(crate) installation: Installation,
    pub(crate) memories: Mutex<HashMap<Key, Memory>>,
    pub(crate) metrics: Metrics,
}

/// How a reconcile ended, and whom it concerns besides.
#[derive(Debug)]
pub struct Done {
    /// What becomes of the work itself.
    pub outcome: Outcome,
    /// Work that it made.
    pub concerns: BTreeSet<Work>,
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Secrets could not be read.
    #[error("cannot read Secrets: {0}")]
    Secrets(#[source] kube::Error),
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

impl Done {
    /// The work ended, and concerned nothing else.
    #[must_use]
    pub fn with(outcome: Outcome) -> Self {
        Self {
            outcome,
            concerns: BTreeSet::new(),
        }
    }

    /// The work failed.
    #[must_use]
    pub fn failed() -> Self {
        Self::with(Outcome::Failed)
    }
}

impl Context {
    /// Reconciles with this client. `instance` is the name under which Events are published.
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
            pods: Reporter::new()?,
            installation,
            memories: Mutex::default(),
            metrics,
        })
    }

    /// What was seen. Never held over an await.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one piece of work.
    pub async fn reconcile(&self, work: &Work) -> Result<Done, ReconcileError> {
        let (listeners, observers) = self.index().counts();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.listeners.set(gauge(listeners));
        self.metrics.observers.set(gauge(observers));
        match work {
            Work::Listener(key) => self.reconcile_listener(key).await,
            Work::Observer(key) => self.reconcile_observer(key).await,
        }
    }

    pub(crate) fn memories(&self) -> MutexGuard<'_, HashMap<Key, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
