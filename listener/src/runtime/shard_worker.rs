//! The worker of a shard whose lease this process holds: claims the shard in the database, has it
//! dispatched, and releases it when the lease is lost or asked back.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{JobQueue, LanesOfAction};
use backoff::Backoff;
use chrono::Utc;
use crds::config::ListenerConfig;
use lease::membership::ShardLease;
use sqlx::PgPool;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::capture::change_log::{ChangeLog, LogError};
use crate::checkpoint::{self, CheckpointError, ClaimedShard, ShardClaimant};
use crate::dispatch::{MAX_LANES, ShardCommand, ShardTokens};
use crate::history::{self, History, LogSource};
use crate::server::AppState;

/// Backoff of a claim that fails.
const CLAIM_RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// The worker of the shards of a session.
#[derive(Debug)]
pub(super) struct ShardWorker<'a> {
    pub(super) listener: &'a ListenerConfig,
    pub(super) pool: &'a PgPool,
    pub(super) log: &'a ChangeLog,
    pub(super) queue: &'a dyn JobQueue,
    pub(super) commands: mpsc::Sender<ShardCommand>,
    pub(super) sources: &'a AppState,
    pub(super) history: &'a History,
    /// What the history of its shards is read from.
    pub(super) source: Arc<LogSource>,
    /// Claims are made one at a time, as one may take two connections.
    pub(super) claiming: Mutex<()>,
}

impl ShardWorker<'_> {
    /// Works on a shard for as long as its lease is held. Fails if the shard cannot be claimed as it is.
    pub(super) async fn run(&self, lease: Arc<ShardLease>) -> Result<(), CheckpointError> {
        let shard = lease.shard();
        let Some((claimed, jobs)) = self.claim(&lease).await? else {
            return Ok(());
        };
        self.log_claimed(&claimed);
        let epoch = claimed.epoch;
        self.history.assign(&claimed, &self.source).await;
        let tokens = ShardTokens {
            cancel: lease.lost().child_token(),
            fenced: CancellationToken::new(),
        };
        // A dispatcher that is gone is noticed by the session.
        let _gone = self
            .commands
            .send(ShardCommand::Assign {
                claimed,
                jobs,
                tokens: tokens.clone(),
            })
            .await;
        let drain = tokio::select! {
            biased;
            () = tokens.fenced.cancelled() => None,
            () = lease.lost().cancelled() => Some(Duration::ZERO),
            () = lease.release_requested().cancelled() => Some(self.listener.drain_timeout),
        };
        if let Some(drain) = drain {
            let is_lost = drain.is_zero() && !lease.release_requested().is_cancelled();
            if is_lost {
                self.sources.metrics.shards.leases_lost.inc();
                tracing::warn!(shard, "shard lease lost; cutting off what is in flight");
            }
            // What was finished is saved even then, unless another process was faster.
            let (released, gone) = oneshot::channel();
            let command = ShardCommand::Release {
                shard,
                drain,
                released,
            };
            if self.commands.send(command).await.is_ok() {
                let _gone = gone.await;
            }
        }
        self.history.release(shard, epoch).await;
        tracing::info!(shard, "shard lease released");
        self.sources.reporter.shard_released(shard);
        self.update_shard_count();
        Ok(())
    }

    /// Claims the shard, however long the database is away, and reads which of its lanes have jobs.
    /// Returns nothing if its lease is not held any more.
    async fn claim(
        &self,
        lease: &ShardLease,
    ) -> Result<Option<(ClaimedShard, Vec<LanesOfAction>)>, CheckpointError> {
        let shard = lease.shard();
        let mut backoff = CLAIM_RETRY;
        let not_held = async {
            tokio::select! {
                () = lease.lost().cancelled() => {}
                () = lease.release_requested().cancelled() => {}
            }
        };
        let name = self.listener.identity();
        let claimant = ShardClaimant {
            listener: &name,
            holder: lease.holder(),
            shards: self.listener.shards,
            start: self.listener.start_at,
        };
        let claiming = async {
            loop {
                let claimed = {
                    let _one_at_a_time = self.claiming.lock().await;
                    self.claim_once(claimant, shard).await
                };
                match claimed {
                    Err(
                        error @ (CheckpointError::Database(_)
                        | CheckpointError::Queue(_)
                        | CheckpointError::Log(LogError::Database(_))),
                    ) => {
                        tracing::warn!(shard, %error, "cannot claim the shard; retrying");
                        tokio::time::sleep(backoff.next_delay()).await;
                    }
                    other => return other.map(Some),
                }
            }
        };
        tokio::select! {
            claimed = claiming => claimed,
            () = not_held => Ok(None),
        }
    }

    async fn claim_once(
        &self,
        claimant: ShardClaimant<'_>,
        shard: u16,
    ) -> Result<(ClaimedShard, Vec<LanesOfAction>), CheckpointError> {
        let claimed = checkpoint::claim(self.pool, self.log, claimant, shard).await?;
        if self.listener.search.is_none() {
            // From here on no process that still keeps a history moves its position.
            history::position::remove(self.pool, claimant.listener, Some(shard)).await?;
        }
        // From here on no other process adds jobs to its lanes.
        let lanes = self
            .queue
            .lanes_with_jobs(&[shard], claimant.shards, MAX_LANES)
            .await?;
        Ok((claimed, lanes))
    }

    fn log_claimed(&self, claimed: &ClaimedShard) {
        let (shard, epoch) = (claimed.shard, claimed.epoch);
        let kind = claimed.taken_from.as_ref().map_or("first", |_| "takeover");
        let claims = &self.sources.metrics.shards.claims;
        claims.with_label_values(&[kind]).inc();
        if let Some(from) = &claimed.taken_from {
            tracing::info!(
                shard,
                epoch,
                from,
                "shard lease acquired, taken over from another process"
            );
        } else {
            tracing::info!(shard, epoch, "shard lease acquired");
        }
        self.sources
            .reporter
            .shard_claimed(shard, epoch, Utc::now());
        self.update_shard_count();
    }

    fn update_shard_count(&self) {
        let owned = i64::try_from(self.sources.reporter.owned_shards()).unwrap_or(i64::MAX);
        self.sources.metrics.shards_owned.set(owned);
    }
}
