//! Where a process gets its configuration from, and what follows from that.

use std::time::Duration;

use crds::config::ListenerConfig;

use super::job_worker::WorkerMode;
use super::plan::RuntimePlan;
use crate::coordination::membership::Coordination;
use crate::database::START_PATIENCE;
use crate::server::AppState;

/// Source of the configuration that a process runs: files, or a bundle in a cluster.
pub trait ConfigSource: Send {
    /// Waits for the next configuration that can be run; the first call returns the first. One that
    /// cannot be run is reported, and changes nothing. Cancel safe.
    fn next(&mut self, sources: &AppState) -> impl Future<Output = RuntimePlan> + Send;

    /// Returns where the processes that run this configuration find each other.
    fn coordination(&self, plan: &RuntimePlan) -> Coordination;

    /// Returns whether this process works on the listener's jobs.
    fn worker_mode(&self, listener: &ListenerConfig) -> WorkerMode;

    /// Returns what a failure does to the process that a retry alone does not get past.
    fn failure_policy(&self) -> FailurePolicy;
}

/// Reaction to a failure that a retry alone does not get past: a missing schema, a wrong password, a
/// database that is not there at the first start.
///
/// In this, files and bundles truly differ. Whoever starts a process by hand or in a script waits for
/// its exit code and reads the remedy. A pod is repaired from outside, through the operator, which reads
/// `/status`; a restart would repair nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The process ends with an error. A database outage is retried once a session has run.
    Exit,
    /// It is reported on `/status` and retried.
    Retry,
}

impl FailurePolicy {
    /// Returns how long a session waits for a server that starts at the same moment. Where failures are
    /// reported and retried, they are reported at once.
    pub(crate) const fn connect_patience(self) -> Duration {
        match self {
            Self::Exit => START_PATIENCE,
            Self::Retry => Duration::ZERO,
        }
    }
}
