//! Tells in the log and to the operator of what keeps observers from doing what they say, and once
//! that is mended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Mutex, watch::Receiver};
use tokio::time::timeout;

use crate::observers::Observers;
use crate::telemetry::status::StatusReporter;
use crate::tracking::summary::summary;
use crate::tracking::{Finding, findings};

/// Pause between two looks while something is wrong.
const PAUSE: Duration = Duration::from_secs(5);

/// Pause between two looks while nothing is.
const LONG_PAUSE: Duration = Duration::from_mins(1);

/// How long a look may take.
const LONGEST: Duration = Duration::from_secs(30);

/// What was told and is not mended yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<BTreeSet<Finding>>>);

impl Told {
    /// Tells of what is new, and of what is there no more.
    async fn tell(&self, listener: &str, now: BTreeSet<Finding>) {
        let mut before = self.0.lock().await;
        for one in now.difference(&before) {
            let (observer, path) = (&one.observer, &one.path);
            tracing::warn!(listener, observer, path, "{}", one.message);
        }
        for one in before.difference(&now) {
            let (observer, path) = (&one.observer, &one.path);
            tracing::info!(listener, observer, path, "mended: {}", one.message);
        }
        *before = now;
    }
}

/// Looks now and then for as long as it is let, and at once when there are other observers.
pub(crate) async fn watch(
    pool: PgPool,
    listener: Arc<str>,
    mut observers: Receiver<Arc<Observers>>,
    told: Told,
    reporter: Arc<StatusReporter>,
) {
    loop {
        let now = Arc::clone(&observers.borrow_and_update());
        let pause = match timeout(LONGEST, findings(&pool, now.needs())).await {
            Ok(Ok(found)) => {
                let pause = if found.is_empty() { LONG_PAUSE } else { PAUSE };
                // Of others that have come meanwhile this says nothing; they are looked at next.
                if !observers.has_changed().unwrap_or(false) {
                    reporter.set_tracking(summary(&found));
                }
                told.tell(&listener, found.into_iter().collect()).await;
                pause
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot look whether the tables are tracked; trying again");
                LONG_PAUSE
            }
            Err(_) => LONG_PAUSE,
        };
        // Where nobody sends other observers, those there are stay.
        if let Ok(Err(_)) = timeout(pause, observers.changed()).await {
            tokio::time::sleep(pause).await;
        }
    }
}
