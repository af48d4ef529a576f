//! A listener that is handed in by the program itself, as the demo does.

use std::sync::Arc;

use crds::config::ListenerConfig;
use tokio::sync::watch;

use super::config_source::{ConfigSource, FailurePolicy};
use super::job_worker::WorkerMode;
use super::plan::RuntimePlan;
use crate::coordination::membership::Coordination;
use crate::observers::Observers;
use crate::server::AppState;

/// A listener that does not change, with the newest observers of a channel.
#[derive(Debug)]
pub struct FixedListener {
    listener: Arc<ListenerConfig>,
    observers: watch::Receiver<Arc<Observers>>,
}

impl FixedListener {
    /// Creates a source of one listener.
    #[must_use]
    pub fn new(listener: ListenerConfig, mut observers: watch::Receiver<Arc<Observers>>) -> Self {
        observers.mark_changed();
        Self {
            listener: Arc::new(listener),
            observers,
        }
    }
}

impl ConfigSource for FixedListener {
    async fn next(&mut self, _: &AppState) -> RuntimePlan {
        if self.observers.changed().await.is_err() {
            // Nobody sends other observers.
            std::future::pending::<()>().await;
        }
        let observers = Arc::clone(&self.observers.borrow_and_update());
        RuntimePlan::new(Arc::clone(&self.listener), observers)
    }

    fn coordination(&self, _: &RuntimePlan) -> Coordination {
        Coordination::Database
    }

    fn worker_mode(&self, _: &ListenerConfig) -> WorkerMode {
        WorkerMode::Embedded
    }

    fn failure_policy(&self) -> FailurePolicy {
        FailurePolicy::Exit
    }
}
