//! The periodic health tick of a session: reports membership and stalled shards, and detects a database
//! outage.

use std::time::Duration;

use chrono::Utc;
use sqlx::PgPool;
use tokio::time::Instant;

use super::error::RunError;
use super::session::{DATABASE_OUTAGE_LIMIT, SessionContext};
use crate::coordination::membership::Membership;
use crate::coordination::unclaimed_shards::UnclaimedShards;
use crate::database;

/// Interval of health ticks.
pub(super) const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a server may take to answer a probe.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// After this long without an answer, the cause is looked for.
const DIAGNOSE_AFTER: Duration = Duration::from_secs(2);

impl SessionContext<'_> {
    /// Runs one health tick. Fails if the database is away for too long.
    pub(super) async fn health_tick(
        &self,
        membership: &Membership,
        pool: &PgPool,
        held: impl Iterator<Item = u16>,
        unclaimed: &mut UnclaimedShards,
    ) -> Result<(), RunError> {
        let (health, reporter) = (&self.sources.health, &self.sources.reporter);
        let status = membership.status.borrow().clone();
        reporter.set_members(status.members);
        let (now, bound) = (Instant::now(), self.listener.stalled_after);
        unclaimed.update(&status, held.filter(|shard| !reporter.owns(*shard)), now);
        health.not_a_member(unclaimed.not_a_member(&status, now, bound));
        let away = health.database_outage(now).unwrap_or_default();
        let longest = away.max(unclaimed.longest_unclaimed(now));
        if longest >= DATABASE_OUTAGE_LIMIT.min(bound) && !membership.is_leaving() {
            self.probe(pool, away).await?;
        } else if away >= DIAGNOSE_AFTER {
            health.is_blocked(database::diagnose(pool).await);
        } else {
            health.is_blocked(None);
        }
        let blocked = health.blocked();
        let stalled = unclaimed.stalled(&status, blocked.as_deref(), now, bound, Utc::now());
        reporter.set_stalled_unowned(stalled);
        self.sources.publish_stalls();
        Ok(())
    }

    /// Finds out whether the database is there, and what keeps it from answering. `away` is for how
    /// long it has not answered.
    async fn probe(&self, pool: &PgPool, away: Duration) -> Result<(), RunError> {
        // A server that answers is there, even if something waits for it.
        let asked = tokio::time::timeout(PROBE_TIMEOUT, database::blocker(pool)).await;
        if let Ok(Ok(blocker)) = asked {
            self.sources.health.is_blocked(blocker);
            return Ok(());
        }
        let cause = database::diagnose(pool).await;
        self.sources.health.is_blocked(cause.clone());
        if away < DATABASE_OUTAGE_LIMIT {
            return Ok(());
        }
        Err(RunError::DatabaseOutage(match (cause, asked) {
            (Some(cause), _) => cause,
            (None, Ok(Err(error))) => error.to_string(),
            (None, _) => format!("no answer for {} s", away.as_secs()),
        }))
    }
}
