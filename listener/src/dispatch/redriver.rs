//! Dead letters that someone wants tried again: they become jobs, with the same ids, behind those
//! that their lanes have, in the transaction in which their rows go.

use std::sync::Arc;

use crds::config::Operation;
use tokio::time::Instant;

use crate::capture::reader::shard_of;
use crate::dead_letters::store::{Redrive, Verdict};
use crate::delivery::attempt::Attempt;
use crate::delivery::failure::{Failure, FailureKind, Tells};
use crate::jobs::payload::Spilled;
use crate::matching;

use super::Dispatcher;
use super::in_flight::weight;

/// Said of events that were too large to be read, and so to be kept.
const UNKEPT: &str = "the event was too large to be kept, so there is nothing to deliver: read the row itself, and drop \
     this dead letter. Exclude large columns with observer.track(..., exclude => array['column']), and track tables \
     by keys and tenants of at most 8 KiB";

/// Whether a dead letter is of an event whose images were left out for their size.
fn without_images(letter: &Redrive) -> bool {
    letter.error_kind == FailureKind::Event.as_str()
        && letter.event.operation != Operation::Truncate
        && letter.event.old.is_none()
        && letter.event.new.is_none()
}

impl Dispatcher {
    /// Takes in what a look for redrives found.
    pub(crate) fn redrive(&mut self, found: Result<Vec<Redrive>, sqlx::Error>) {
        match found {
            Ok(letters) => letters
                .into_iter()
                .for_each(|letter| self.redrive_one(letter)),
            Err(error) => {
                self.setup
                    .writer
                    .metrics
                    .database_errors
                    .with_label_values(&["redrive"])
                    .inc();
                tracing::debug!(%error, "cannot look for dead letters to redrive; trying again");
            }
        }
    }

    fn redrive_one(&mut self, letter: Redrive) {
        let shard = shard_of(letter.event.hash, self.setup.shards);
        if self.epoch_to_begin(shard).is_none() {
            return;
        }
        if self.redriving.contains_key(&letter.id) {
            return;
        }
        self.redriving.insert(letter.id, shard);
        let name = (
            Arc::from(letter.observer.as_str()),
            Arc::from(letter.action.as_str()),
        );
        let Some(target) = self.targets.find(&name) else {
            let failure = Failure {
                kind: FailureKind::Removed,
                message: format!(
                    "observer {} has no action {} any more: bring it back and redrive again, or drop this dead letter",
                    letter.observer, letter.action
                ),
                status: None,
                tells: Tells::default(),
            };
            return self.failed_again(shard, letter.id, &failure);
        };
        if without_images(&letter) {
            let failure = Failure::of(FailureKind::Event, UNKEPT);
            return self.failed_again(shard, letter.id, &failure);
        }
        let asks = [FailureKind::Condition, FailureKind::Replay];
        if asks.iter().any(|kind| letter.error_kind == kind.as_str()) {
            match self.targets.decide(&letter.event, &letter.observer) {
                Some(matching::Verdict::Match) => {}
                Some(matching::Verdict::Failed(failure)) => {
                    return self.failed_again(shard, letter.id, &failure);
                }
                None => {
                    let settled = (shard, Verdict::Settled(letter.id));
                    return self.unsaved.redrive_results.push(settled);
                }
            }
        }
        let Some(compiled) = self.targets.target(target) else {
            return;
        };
        let job = Spilled {
            name,
            // One that fails again comes back under another number.
            again: Some(letter.id.to_string()),
            replay: letter.error_kind == FailureKind::Replay.as_str(),
            lane: None,
            key: compiled.lane(&letter.event, self.setup.shards),
            priority: compiled.priority(),
            attempts: 0,
            history: letter.history,
            attempts_before: letter.attempts,
            due: Instant::now(),
            event: letter.event,
        };
        let lane = (target, job.key);
        if self.lanes.len(lane) > 0 && !self.queued.contains(lane) {
            // Something of its lane is under way here; it is found again later.
            self.redriving.remove(&letter.id);
            return;
        }
        self.held += weight(&job.event);
        self.enqueue(lane, shard, job);
        let settled = (shard, Verdict::Settled(letter.id));
        self.unsaved.redrive_results.push(settled);
    }

    fn failed_again(&mut self, shard: u16, id: i64, failure: &Failure) {
        let history = vec![Attempt::new(chrono::Utc::now(), failure, None)];
        let failed = Verdict::Failed {
            id,
            attempts: 0,
            history,
        };
        self.unsaved.redrive_results.push((shard, failed));
    }
}
