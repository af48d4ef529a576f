//! What a process does with a shard that is its own: claims it in the database, has it worked on,
//! and lets go of it when it must or when it is asked to.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{JobQueue, LanesOfAction};
use chrono::Utc;
use crds::config::ListenerConfig;
use lease::membership::ShardLease;
use sqlx::PgPool;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::capture::change_log::{ChangeLog, LogError};
use crate::checkpoint::{self, CheckpointError, ClaimedShard, ShardClaimant};
use crate::dispatch::{MAX_LANES, ShardCommand, ShardTokens};
use crate::server::Sources;

/// Wait after the first claim that failed; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait between two claims.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Where shards are worked on.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    pub(crate) listener: &'a ListenerConfig,
    pub(crate) pool: &'a PgPool,
    pub(crate) log: &'a ChangeLog,
    pub(crate) queue: &'a dyn JobQueue,
    pub(crate) commands: mpsc::Sender<ShardCommand>,
    pub(crate) sources: &'a Sources,
    /// Claims are made one at a time, as one may take two connections.
    pub(crate) claiming: Mutex<()>,
}

impl Desk<'_> {
    /// Works on a shard for as long as it is held. Fails if it cannot be worked on as it is.
    pub(crate) async fn work(&self, hold: Arc<ShardLease>) -> Result<(), CheckpointError> {
        let shard = hold.shard();
        let Some((claimed, jobs)) = self.claim(&hold).await? else {
            return Ok(());
        };
        self.note(&claimed);
        let tokens = ShardTokens {
            cancel: hold.lost().child_token(),
            fenced: CancellationToken::new(),
        };
        // Should the dispatcher be gone, its owner sees to it.
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
            () = hold.lost().cancelled() => Some(Duration::ZERO),
            () = hold.release_requested().cancelled() => Some(self.listener.drain_timeout),
        };
        if let Some(drain) = drain {
            let lost = drain.is_zero() && !hold.release_requested().is_cancelled();
            if lost {
                tracing::warn!(shard, "lost the shard; what is under way is cut off");
            }
            // What was finished is saved even then, unless another process was faster.
            let (released, gone) = oneshot::channel();
            let leave = ShardCommand::Release {
                shard,
                drain,
                released,
            };
            if self.commands.send(leave).await.is_ok() {
                let _gone = gone.await;
            }
        }
        tracing::info!(shard, "let go of the shard");
        self.sources.reporter.let_go(shard);
        self.count();
        Ok(())
    }

    /// Claims the shard, however long the database is away, and learns which of its lanes have jobs.
    /// Nothing if it is not held any more.
    async fn claim(
        &self,
        hold: &ShardLease,
    ) -> Result<Option<(ClaimedShard, Vec<LanesOfAction>)>, CheckpointError> {
        let shard = hold.shard();
        let mut wait = FIRST_WAIT;
        let over = async {
            tokio::select! {
                () = hold.lost().cancelled() => {}
                () = hold.release_requested().cancelled() => {}
            }
        };
        let name = self.listener.identity();
        let who = ShardClaimant {
            listener: &name,
            holder: hold.holder(),
            shards: self.listener.shards,
            start: self.listener.start_at,
        };
        let claiming = async {
            loop {
                let claimed = {
                    let _one_at_a_time = self.claiming.lock().await;
                    self.claim_once(who, shard).await
                };
                match claimed {
                    Err(
                        error @ (CheckpointError::Database(_)
                        | CheckpointError::Queue(_)
                        | CheckpointError::Log(LogError::Database(_))),
                    ) => {
                        tracing::warn!(shard, %error, "cannot claim the shard; trying again");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(LONGEST_WAIT);
                    }
                    other => return other.map(Some),
                }
            }
        };
        tokio::select! {
            claimed = claiming => claimed,
            () = over => Ok(None),
        }
    }

    async fn claim_once(
        &self,
        who: ShardClaimant<'_>,
        shard: u16,
    ) -> Result<(ClaimedShard, Vec<LanesOfAction>), CheckpointError> {
        let claimed = checkpoint::claim(self.pool, self.log, who, shard).await?;
        // From here on nobody else adds jobs to its lanes.
        let lanes = self
            .queue
            .lanes_with_jobs(&[shard], who.shards, MAX_LANES)
            .await?;
        Ok((claimed, lanes))
    }

    fn note(&self, claimed: &ClaimedShard) {
        let (shard, epoch) = (claimed.shard, claimed.epoch);
        if let Some(from) = &claimed.taken_from {
            tracing::info!(shard, epoch, from, "taking the shard over");
        } else {
            tracing::info!(shard, epoch, "working on the shard");
        }
        self.sources.reporter.claimed(shard, epoch, Utc::now());
        self.count();
    }

    fn count(&self) {
        let owned = i64::try_from(self.sources.reporter.owned()).unwrap_or(i64::MAX);
        self.sources.metrics.shards.set(owned);
    }
}
