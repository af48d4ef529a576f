//! What became of one event: which observers it met, and where each of their deliveries is.

use ::queue::{JobQueue, JobState, JobView, QueueError};
use chrono::{DateTime, Utc};
use search::DeliveryAttempt;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgPool;

use super::compose::attempts_of;
use super::lookup::{self, EventPlace, Standing, StoredLetter};
use crate::delivery::delivery_id;
use crate::delivery::event::Event;
use crate::observers::Observers;
use crds::config::OnFailure;

/// Why it cannot be said what became of an event.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// The database could not be asked, or refused.
    #[error("cannot read what became of the event: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// The job queue could not be asked.
    #[error("cannot read the jobs: {0}")]
    Queue(#[from] QueueError),
    /// A checkpoint that this program does not understand.
    #[error("cannot read the checkpoint: {0}")]
    Checkpoint(#[from] serde_json::Error),
}

/// Where a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DeliveryState {
    /// The endpoint has accepted it.
    Delivered,
    /// It was accepted, or given up on by an action with `onFailure: Drop`, which leaves no trace.
    DeliveredOrDropped,
    /// It is not over: not read yet, in flight, or not saved yet.
    Pending,
    /// It is a job that can be claimed, waits for its next attempt, or is behind another of its key.
    Queued,
    /// A worker holds its job.
    Running,
    /// It was given up on, and is kept.
    DeadLetter,
    /// The listener has been asked to try its dead letter again, or to replay it, and has not done so yet.
    RedriveRequested,
}

impl DeliveryState {
    /// The state as people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::DeliveredOrDropped => "delivered, or dropped after its attempts",
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::DeadLetter => "dead letter",
            Self::RedriveRequested => "redrive requested",
        }
    }
}

/// One delivery of an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryOutcome {
    /// The observer, `namespace/name`.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Its id, which receivers get as `webhook-id`.
    pub delivery: String,
    /// Where it is.
    pub state: DeliveryState,
    /// Number of attempts that are known of; the listener does not count those of deliveries that succeeded
    /// at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Error of the last failed attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When its next attempt is due, or its job has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Id of its dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<i64>,
    /// The latest failed attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Box<RawValue>>,
}

impl DeliveryOutcome {
    /// Returns whether it is a job.
    #[must_use]
    pub const fn is_job(&self) -> bool {
        matches!(self.state, DeliveryState::Queued | DeliveryState::Running)
    }

    /// Returns its latest failed attempts, as documents list them.
    #[must_use]
    pub fn failed_attempts(&self) -> Vec<DeliveryAttempt> {
        let history = self.history.as_deref().map(attempts_of);
        history.unwrap_or_default()
    }
}

/// What an observer makes of an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObserverOutcome {
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Why the event does not concern it; absent where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_matched: Option<String>,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryOutcome>,
}

/// How far a listener is with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EventProgress {
    /// The listener has never run in this database.
    NotStarted,
    /// The checkpoint of the event's shard is not past it.
    Ahead,
    /// The checkpoint of the event's shard is past it.
    Passed,
}

/// What is stored about an event for one listener.
struct Stored {
    standing: Standing,
    dead_letters: Vec<StoredLetter>,
}

/// Returns what became of an event: for each observer that watches its entity, and for each delivery that is
/// stored though its observer is gone.
///
/// Conditions are evaluated as the observers are now, which may not be how they were when the event was read.
pub async fn of_event(
    pool: &PgPool,
    queue: &dyn JobQueue,
    listener: &str,
    observers: &Observers,
    event: &Event,
) -> Result<(EventProgress, Vec<ObserverOutcome>), OutcomeError> {
    // A dead letter may become a job meanwhile, and a job a dead letter: what is a job before or after the
    // look at dead letters is one.
    let before = jobs(queue, observers, event).await?;
    let mut stored = stored(pool, listener, event).await?;
    let mut jobs = jobs(queue, observers, event).await?;
    let ended = before
        .into_iter()
        .filter(|job| jobs.iter().all(|one| one.id != job.id));
    let ended: Vec<JobView> = ended.collect();
    jobs.extend(ended);
    let mut outcomes = Vec::new();
    for (name, rule, targets) in observers.of_entity(&event.entity) {
        let not_matched = rule.explain(event);
        let mut deliveries = Vec::new();
        for target in targets {
            let action = &*target.name.action;
            let letter = take(&mut stored.dead_letters, name, action);
            let job = jobs
                .iter()
                .find(|job| job.observer == name && job.action == action);
            if not_matched.is_none() || letter.is_some() || job.is_some() {
                let known = Known {
                    letter,
                    job,
                    stored: &stored,
                    drops: target.on_failure == OnFailure::Drop,
                };
                deliveries.push(known.outcome(event, name, action));
            }
        }
        outcomes.push(ObserverOutcome {
            observer: name.to_owned(),
            not_matched,
            deliveries,
        });
    }
    for letter in std::mem::take(&mut stored.dead_letters) {
        let (observer, action) = (letter.observer.clone(), letter.action.clone());
        let known = Known {
            letter: Some(letter),
            job: None,
            stored: &stored,
            drops: false,
        };
        outcomes.push(ObserverOutcome {
            not_matched: Some("the listener has no such observer or action any more".to_owned()),
            deliveries: vec![known.outcome(event, &observer, &action)],
            observer,
        });
    }
    Ok((stored.standing.progress, outcomes))
}

fn take(letters: &mut Vec<StoredLetter>, observer: &str, action: &str) -> Option<StoredLetter> {
    let is_it = |one: &StoredLetter| one.observer == observer && one.action == action;
    letters
        .iter()
        .position(is_it)
        .map(|n| letters.swap_remove(n))
}

/// All that is known of one delivery.
struct Known<'a> {
    letter: Option<StoredLetter>,
    job: Option<&'a JobView>,
    stored: &'a Stored,
    drops: bool,
}

impl Known<'_> {
    fn outcome(self, event: &Event, observer: &str, action: &str) -> DeliveryOutcome {
        let state = self.state(observer, action);
        let letter = self.letter;
        let job = self.job.filter(|_| letter.is_none());
        DeliveryOutcome {
            delivery: delivery_id(&event.id, observer, action),
            observer: observer.to_owned(),
            action: action.to_owned(),
            state,
            attempts: letter
                .as_ref()
                .map(|letter| letter.attempts)
                .or(job.map(|job| job.attempts)),
            error: letter
                .as_ref()
                .map(|letter| letter.error.clone())
                .or_else(|| job.and_then(|job| job.error.clone())),
            at: job.map(|job| job.scheduled_at),
            dead_letter: letter.as_ref().map(|letter| letter.id),
            history: letter
                .map(|letter| letter.history)
                .or_else(|| job.and_then(|job| job.history.clone())),
        }
    }

    fn state(&self, observer: &str, action: &str) -> DeliveryState {
        if let Some(letter) = &self.letter {
            return if letter.redrive_requested {
                DeliveryState::RedriveRequested
            } else {
                DeliveryState::DeadLetter
            };
        }
        match self.job.map(|job| job.state) {
            Some(JobState::Running) => return DeliveryState::Running,
            Some(JobState::Completed) => return DeliveryState::Delivered,
            Some(JobState::Available | JobState::Scheduled | JobState::Blocked) => {
                return DeliveryState::Queued;
            }
            None => {}
        }
        match self.stored.standing.is_done(observer, action) {
            true if self.drops => DeliveryState::DeliveredOrDropped,
            true => DeliveryState::Delivered,
            false => DeliveryState::Pending,
        }
    }
}

/// Jobs of an event's deliveries, pending and finished, each with its history.
async fn jobs(
    queue: &dyn JobQueue,
    observers: &Observers,
    event: &Event,
) -> Result<Vec<JobView>, QueueError> {
    let targets = observers
        .of_entity(&event.entity)
        .flat_map(|(_, _, targets)| targets);
    let ids: Vec<String> = targets
        .map(|target| delivery_id(&event.id, &target.name.observer, &target.name.action))
        .collect();
    queue.find(&ids).await
}

/// Reads progress before dead letters, so that a delivery that becomes a dead letter meanwhile is one or the
/// other.
async fn stored(pool: &PgPool, listener: &str, event: &Event) -> Result<Stored, OutcomeError> {
    let place = EventPlace {
        log_id: event.log_id,
        origin: None,
    };
    let mut standings = lookup::standings(pool, listener, &[place]).await?;
    let unknown = Standing {
        progress: EventProgress::NotStarted,
        is_known: false,
        done: Vec::new(),
    };
    Ok(Stored {
        standing: standings.remove(&event.log_id).unwrap_or(unknown),
        dead_letters: lookup::dead_letters(pool, listener, &[&event.id]).await?,
    })
}
