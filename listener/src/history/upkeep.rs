//! Upkeep of the history: removes old documents, and looks for gaps.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use search::SearchIndex;
use sqlx::PgPool;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use super::position::{self, Gaps};

/// Time between two looks for gaps.
const INTERVAL: Duration = Duration::from_secs(10);

/// Time between two removals of old documents.
const REMOVAL_INTERVAL: Duration = Duration::from_mins(1);

/// Maximum number of calls of one removal, and the pause between two.
const MAX_CALLS: usize = 100;
const CALL_PAUSE: Duration = Duration::from_millis(100);

/// Upkeep, one round at a time.
#[derive(Debug)]
pub(super) struct Upkeep {
    index: Arc<dyn SearchIndex>,
    pool: PgPool,
    listener: Arc<str>,
    retention: Duration,
    running: JoinSet<Option<Gaps>>,
    due: Instant,
    removal_due: Instant,
    gaps: Gaps,
}

impl Upkeep {
    /// Creates the upkeep of a listener's history.
    pub(super) fn new(
        index: Arc<dyn SearchIndex>,
        pool: PgPool,
        listener: Arc<str>,
        retention: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            index,
            pool,
            listener,
            retention,
            running: JoinSet::new(),
            due: now,
            removal_due: now,
            gaps: Gaps::default(),
        }
    }

    /// Returns the gaps that were found last.
    pub(super) const fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// Starts a round that is due, unless one runs. Only one process of the fleet removes documents.
    pub(super) fn start(&mut self, now: Instant, removes: bool) {
        if !self.running.is_empty() || now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        let removes = removes && now >= self.removal_due;
        if removes {
            self.removal_due = now + REMOVAL_INTERVAL;
        }
        let (index, pool) = (Arc::clone(&self.index), self.pool.clone());
        let (listener, retention) = (Arc::clone(&self.listener), self.retention);
        self.running.spawn(async move {
            if removes {
                remove_expired(&*index, &pool, &listener, retention).await;
            }
            let gaps = position::gaps(&pool, &listener).await;
            gaps.inspect_err(|error| tracing::debug!(%error, "cannot look for gaps of the history"))
                .ok()
        });
    }

    /// Waits for the end of a round; `None` if none runs.
    pub(super) async fn next(&mut self) -> Option<Result<Option<Gaps>, JoinError>> {
        let ended = self.running.join_next().await?;
        if let Ok(Some(gaps)) = &ended {
            if gaps.latest > self.gaps.latest {
                tracing::warn!(
                    gaps = gaps.count,
                    "events left the change log before the history had them, as spec.search.maxLag says; see observer.search_gap"
                );
            }
            self.gaps = gaps.clone();
        }
        Some(ended)
    }
}

async fn remove_expired(
    index: &dyn SearchIndex,
    pool: &PgPool,
    listener: &str,
    retention: Duration,
) {
    let age = TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
    let Some(before) = Utc::now().checked_sub_signed(age) else {
        return;
    };
    for _ in 0..MAX_CALLS {
        match index.remove_expired(listener, before).await {
            Ok(true) => sleep(CALL_PAUSE).await,
            Ok(false) => break,
            Err(error) => {
                tracing::debug!(%error, "cannot remove old documents; retrying");
                break;
            }
        }
    }
    if let Err(error) = position::remove_old_gaps(pool, listener, before).await {
        tracing::debug!(%error, "cannot remove old gaps of the history; retrying");
    }
}
