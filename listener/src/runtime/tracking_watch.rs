//! Tracks the tables that are listed, watches whether those of the observers are tracked, and reports findings to
//! the log and to the operator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crds::config::{SourceTableConfig, WalSourceConfig};
use sqlx::PgPool;
use tokio::sync::{Mutex, watch::Receiver};
use tokio::time::timeout;

use crate::observers::Observers;
use crate::telemetry::status::StatusReporter;
use crate::tracking::prepare::Preparer;
use crate::tracking::summary::summary;
use crate::tracking::{Finding, findings};

/// Interval of checks while something is wrong.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Interval of checks while nothing is wrong.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_mins(1);

/// Timeout of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Findings that were logged and are not resolved yet.
#[derive(Clone, Debug, Default)]
pub(super) struct ReportedFindings(Arc<Mutex<BTreeSet<Finding>>>);

impl ReportedFindings {
    /// Logs findings that are new, and those that are resolved.
    async fn update(&self, listener: &str, now: BTreeSet<Finding>) {
        let mut before = self.0.lock().await;
        for one in now.difference(&before) {
            let (observer, path) = (&one.observer, &one.path);
            tracing::warn!(listener, observer, path, "{}", one.message);
        }
        for one in before.difference(&now) {
            let (observer, path) = (&one.observer, &one.path);
            tracing::info!(listener, observer, path, "resolved: {}", one.message);
        }
        *before = now;
    }
}

/// Where changes come from.
pub(super) struct Captured {
    /// Connections to the database whose changes are captured.
    pub(super) pool: PgPool,
    /// The write-ahead log, if that is the source.
    pub(super) source: Option<WalSourceConfig>,
    /// Tables that are to be tracked as they are listed.
    pub(super) listed: Vec<SourceTableConfig>,
}

/// Checks periodically, and at once when the observers are replaced. Does not end.
pub(super) async fn watch(
    Captured {
        pool,
        source,
        listed,
    }: Captured,
    listener: Arc<str>,
    mut observers: Receiver<Arc<Observers>>,
    findings_before: ReportedFindings,
    reporter: Arc<StatusReporter>,
) {
    let mut preparer = Preparer::new(listed.clone());
    let retry = if listed.is_empty() {
        IDLE_CHECK_INTERVAL
    } else {
        CHECK_INTERVAL
    };
    loop {
        let now = Arc::clone(&observers.borrow_and_update());
        let checking = async {
            let steps = preparer.round(&pool).await?;
            findings(&pool, source.as_ref(), (&listed, &steps), now.needs()).await
        };
        let pause = match timeout(CHECK_TIMEOUT, checking).await {
            Ok(Ok(found)) => {
                let pause = if found.is_empty() {
                    IDLE_CHECK_INTERVAL
                } else {
                    CHECK_INTERVAL
                };
                // It says nothing about observers that have come meanwhile; they are checked next.
                if !observers.has_changed().unwrap_or(false) {
                    reporter.set_tracking(summary(&found));
                }
                findings_before
                    .update(&listener, found.into_iter().collect())
                    .await;
                pause
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot check whether the tables are tracked; retrying");
                retry
            }
            Err(_) => retry,
        };
        // Without a sender the observers stay as they are.
        if let Ok(Err(_)) = timeout(pause, observers.changed()).await {
            tokio::time::sleep(pause).await;
        }
    }
}
