//! Redrives of dead letters: they become jobs, with the same ids, behind those that their lanes have,
//! in the transaction in which their rows are deleted.

use std::collections::HashMap;
use std::sync::Arc;

use crds::config::Operation;
use sqlx::PgPool;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::checkpoint_buffer::CheckpointBuffer;
use super::checkpoint_writer::CheckpointWriter;
use super::delivery_lanes::DeliveryLanes;
use super::owned_shard::OwnedShards;
use super::target_table::TargetTable;
use crate::capture::change_log::ShardFilter;
use crate::dead_letters::store::{self, Redrive, RedriveResult};
use crate::delivery::ActionName;
use crate::delivery::attempt::Attempt;
use crate::delivery::failure::{Failure, FailureKind};
use crate::jobs::payload::PendingJob;
use crate::matching;
use crate::observers::Target;
use crate::telemetry::metrics::Metrics;

/// Maximum number of dead letters that are redriven at once.
const MAX_REDRIVES: usize = 64;

/// The failure of a redrive whose event was too large to be stored.
const NOT_STORED: &str = "the event was too large to be kept, so there is nothing to deliver: read the row itself, and drop \
     this dead letter. Exclude large columns with observer.track(..., exclude => array['column']), and track tables \
     by keys and tenants of at most 8 KiB";

/// The redrives in progress, and the query for more.
#[derive(Debug)]
pub(super) struct Redriver {
    pool: PgPool,
    listener: Arc<str>,
    shard_count: u16,
    query: JoinSet<Result<Vec<Redrive>, sqlx::Error>>,
    /// Dead letters whose results are not committed, with their shards.
    in_progress: HashMap<i64, u16>,
    metrics: Metrics,
}

impl Redriver {
    /// Creates a redriver without redrives, of the writer's listener.
    pub(super) fn new(writer: &CheckpointWriter, shard_count: u16) -> Self {
        Self {
            pool: writer.pool.clone(),
            listener: Arc::clone(&writer.listener),
            shard_count,
            query: JoinSet::new(),
            in_progress: HashMap::new(),
            metrics: writer.metrics.clone(),
        }
    }

    /// Queries the dead letters to redrive, if there is room for some and no query runs.
    pub(super) fn start_query(&mut self, shards: &OwnedShards) {
        let room = MAX_REDRIVES.saturating_sub(self.in_progress.len());
        if room == 0 || !self.query.is_empty() || shards.is_empty() {
            return;
        }
        let (numbers, shard_count) = (shards.numbers(), self.shard_count);
        let pool = self.pool.clone();
        let listener = Arc::clone(&self.listener);
        let in_progress: Vec<i64> = self.in_progress.keys().copied().collect();
        let limit = i64::try_from(room).unwrap_or(1);
        self.query.spawn(async move {
            let filter = ShardFilter {
                shards: &numbers,
                shard_count,
            };
            store::requested(&pool, &listener, filter, &in_progress, limit).await
        });
    }

    /// Waits for the query; `None` if none runs.
    pub(super) async fn next_found(
        &mut self,
    ) -> Option<Result<Result<Vec<Redrive>, sqlx::Error>, JoinError>> {
        self.query.join_next().await
    }

    /// Redrives the dead letters that a query found.
    pub(super) fn redrive(
        &mut self,
        found: Result<Vec<Redrive>, sqlx::Error>,
        shards: &OwnedShards,
        lanes: &mut DeliveryLanes,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let letters = match found {
            Ok(letters) => letters,
            Err(error) => {
                let errors = &self.metrics.database_errors;
                errors.with_label_values(&["read_redrives"]).inc();
                tracing::debug!(%error, "cannot query dead letters to redrive; retrying");
                return;
            }
        };
        for letter in letters {
            let shard = shards.shard_of(letter.event.hash);
            if shards.active_epoch(shard).is_some() && !self.in_progress.contains_key(&letter.id) {
                self.redrive_one(letter, shard, lanes, checkpoint);
            }
        }
    }

    fn redrive_one(
        &mut self,
        letter: Redrive,
        shard: u16,
        lanes: &mut DeliveryLanes,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let id = letter.id;
        let result = match decide(&letter, lanes.targets()) {
            Decision::Drop => RedriveResult::Settled(id),
            Decision::Fail(failure) => RedriveResult::Failed {
                id,
                attempts: 0,
                history: vec![Attempt::new(chrono::Utc::now(), &failure, None)],
            },
            Decision::Redeliver(target) => {
                let Some(job) = job(letter, target, lanes.targets(), self.shard_count) else {
                    return;
                };
                let lane = (target, job.key);
                if lanes.is_delivering(lane) {
                    // Found again later.
                    return;
                }
                checkpoint.retain(&job.event);
                lanes.add_job(lane, shard, job, checkpoint);
                RedriveResult::Settled(id)
            }
        };
        self.in_progress.insert(id, shard);
        checkpoint.add_redrive_result(shard, result);
    }

    /// Ends the redrives whose results are committed.
    pub(super) fn committed(&mut self, results: &[(u16, RedriveResult)]) {
        for (_, result) in results {
            let (RedriveResult::Settled(id) | RedriveResult::Failed { id, .. }) = result;
            self.in_progress.remove(id);
        }
    }

    /// Forgets the redrives of a shard.
    pub(super) fn remove_shard(&mut self, shard: u16) {
        self.in_progress.retain(|_, of| *of != shard);
    }
}

/// What a redrive of a dead letter does.
enum Decision {
    /// Its delivery becomes a job again.
    Redeliver(Target),
    /// It is deleted: its condition is false now.
    Drop,
    /// It stays a dead letter.
    Fail(Failure),
}

/// Decides what a redrive of a dead letter does.
fn decide(letter: &Redrive, targets: &TargetTable) -> Decision {
    let (observer, action) = (letter.observer.as_str(), letter.action.as_str());
    let Some(target) = targets.find(&ActionName::new(observer, action)) else {
        let message = format!(
            "observer {observer} has no action {action} any more: bring it back and redrive again, or drop this dead letter"
        );
        return Decision::Fail(Failure::of(FailureKind::Removed, message));
    };
    if is_without_images(letter) {
        return Decision::Fail(Failure::of(FailureKind::Event, NOT_STORED));
    }
    let evaluated = [FailureKind::Condition, FailureKind::Replay];
    if evaluated
        .iter()
        .any(|kind| letter.error_kind == kind.as_str())
    {
        return match targets.decide(&letter.event, observer) {
            Some(matching::RuleMatch::Match) => Decision::Redeliver(target),
            Some(matching::RuleMatch::Failed(failure)) => Decision::Fail(failure),
            None => Decision::Drop,
        };
    }
    Decision::Redeliver(target)
}

/// Returns whether a dead letter is of an event whose images were left out for their size.
fn is_without_images(letter: &Redrive) -> bool {
    letter.error_kind == FailureKind::Event.as_str()
        && letter.event.operation != Operation::Truncate
        && letter.event.old.is_none()
        && letter.event.new.is_none()
}

/// Returns the job that redelivers a dead letter.
fn job(
    letter: Redrive,
    target: Target,
    targets: &TargetTable,
    shard_count: u16,
) -> Option<PendingJob> {
    let compiled = targets.target(target)?;
    Some(PendingJob {
        name: compiled.name.clone(),
        // One that fails again is stored under another id.
        again: Some(letter.id.to_string()),
        replay: letter.error_kind == FailureKind::Replay.as_str(),
        lane: None,
        key: compiled.lane(&letter.event, shard_count),
        priority: compiled.priority(),
        attempts: 0,
        history: letter.history,
        attempts_before: letter.attempts,
        due: Instant::now(),
        event: letter.event,
    })
}
