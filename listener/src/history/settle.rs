//! What is known of deliveries without reports: from the checkpoints, the jobs and the dead letters.

use std::sync::Arc;

use ::queue::{JobQueue, JobState, JobView};
use crds::config::OnFailure;
use search::{DeliveryEntry, DeliveryState, Document};
use sqlx::PgPool;

use super::compose::attempts_of;
use super::lookup::{EventPlace, StoredLetter, WantedDelivery, Whereabouts, look_up};
use super::outcome::OutcomeError;
use crate::delivery::ActionName;
use crate::observers::Observers;

/// Where deliveries are looked up.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Connections to the listener's database.
    pub pool: PgPool,
    /// The job queue.
    pub queue: Arc<dyn JobQueue>,
    /// Identity of the listener.
    pub listener: Arc<str>,
    /// The observers.
    pub observers: Arc<Observers>,
}

/// Which deliveries of documents are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// Those that nothing has been reported of, and dead letters whose ids are not known.
    Unreported,
    /// All that are not over, too.
    Unfinished,
}

impl Unsettled {
    fn includes(self, entry: &DeliveryEntry) -> bool {
        match entry.state {
            DeliveryState::Pending => true,
            DeliveryState::Queued | DeliveryState::Retrying => self == Self::Unfinished,
            DeliveryState::DeadLetter => entry.dead_letter.is_none(),
            _ => false,
        }
    }
}

/// A document whose deliveries are looked up.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// The document.
    pub document: &'a mut Document,
    /// Hash and transaction of its event, where they are known.
    pub origin: Option<(u32, u64)>,
}

/// Looks deliveries up, and has documents say where they are. Returns for each whether it changed.
pub async fn settle(
    sources: &Sources,
    candidates: &mut [Candidate<'_>],
    which: Unsettled,
) -> Result<Vec<bool>, OutcomeError> {
    let mut wanted = Vec::new();
    let mut places = Vec::new();
    for (n, candidate) in candidates.iter().enumerate() {
        let document = &candidate.document;
        for (m, observer) in document.observers.iter().enumerate() {
            for (k, entry) in observer.deliveries.iter().enumerate() {
                if which.includes(entry) {
                    places.push((n, m, k));
                    wanted.push(WantedDelivery {
                        event: EventPlace {
                            log_id: document.log_id,
                            origin: candidate.origin,
                        },
                        event_id: document.id.clone(),
                        observer: observer.observer.clone(),
                        action: entry.action.clone(),
                        job: entry.job.clone().unwrap_or_else(|| entry.delivery.clone()),
                        has_left_dispatch: entry.state != DeliveryState::Pending,
                    });
                }
            }
        }
    }
    let mut changed = vec![false; candidates.len()];
    if wanted.is_empty() {
        return Ok(changed);
    }
    let (queue, listener) = (&*sources.queue, &*sources.listener);
    let found = look_up(&sources.pool, queue, listener, &wanted).await?;
    for ((n, m, k), (wanted, found)) in places.into_iter().zip(wanted.iter().zip(&found)) {
        let name = ActionName::new(wanted.observer.as_str(), wanted.action.as_str());
        let compiled = sources.observers.compiled(&name);
        let drops = compiled.is_some_and(|compiled| compiled.on_failure == OnFailure::Drop);
        let entry = &mut candidates[n].document.observers[m].deliveries[k];
        if let Some(settled) = settled(entry, found, drops)
            && settled != *entry
        {
            *entry = settled;
            changed[n] = true;
        }
    }
    Ok(changed)
}

/// Returns what a delivery's entry becomes; nothing if no more is known than it says.
fn settled(entry: &DeliveryEntry, found: &Whereabouts, drops: bool) -> Option<DeliveryEntry> {
    match found {
        Whereabouts::Pending => None,
        Whereabouts::Job(job) => Some(as_job(entry, job)),
        Whereabouts::DeadLetter(letter) => Some(as_dead_letter(entry, letter)),
        Whereabouts::Over if entry.state.is_final() => None,
        Whereabouts::Over => Some(DeliveryEntry {
            // What was a job may have been cancelled, and what may be dropped may have been.
            state: if entry.state == DeliveryState::Pending && !drops {
                DeliveryState::Delivered
            } else {
                DeliveryState::Completed
            },
            due_at: None,
            job: None,
            details_lost: true,
            ..entry.clone()
        }),
    }
}

fn as_job(entry: &DeliveryEntry, job: &JobView) -> DeliveryEntry {
    let attempts = job.attempts.max(entry.attempts);
    let is_over = job.state == JobState::Completed;
    let history = job.history.as_deref().map(attempts_of);
    DeliveryEntry {
        state: match attempts {
            _ if is_over => DeliveryState::Delivered,
            0 => DeliveryState::Queued,
            _ => DeliveryState::Retrying,
        },
        attempts,
        history: history
            .filter(|history| history.len() > entry.history.len())
            .unwrap_or_else(|| entry.history.clone()),
        due_at: (!is_over).then_some(job.scheduled_at),
        job: (!is_over).then(|| job.id.clone()),
        details_lost: is_over,
        ..entry.clone()
    }
}

fn as_dead_letter(entry: &DeliveryEntry, letter: &StoredLetter) -> DeliveryEntry {
    DeliveryEntry {
        state: DeliveryState::DeadLetter,
        attempts: letter.attempts.max(entry.attempts),
        history: attempts_of(&letter.history),
        due_at: None,
        job: None,
        dead_letter: Some(letter.id),
        details_lost: false,
        ..entry.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use chrono::DateTime;

    use serde_json::value::RawValue;

    use super::*;

    fn entry(state: DeliveryState, attempts: u32) -> DeliveryEntry {
        DeliveryEntry {
            action: "post".to_owned(),
            delivery: "e.1".to_owned(),
            replay: None,
            state,
            attempts,
            history: Vec::new(),
            due_at: None,
            job: (state == DeliveryState::Retrying).then(|| "e.1".to_owned()),
            dead_letter: None,
            details_lost: false,
        }
    }

    fn job(state: JobState, attempts: u32) -> Whereabouts {
        Whereabouts::Job(Box::new(JobView {
            id: "e.1".to_owned(),
            state,
            observer: "default/o".to_owned(),
            action: "post".to_owned(),
            event_id: "e".to_owned(),
            entity: "public.t".to_owned(),
            key: None,
            tenant: None,
            priority: "Normal".to_owned(),
            attempts,
            enqueued_at: DateTime::UNIX_EPOCH,
            scheduled_at: DateTime::UNIX_EPOCH,
            worker: None,
            error: None,
            history: None,
            event: None,
        }))
    }

    fn letter() -> Whereabouts {
        let history =
            r#"[{"at":"2026-01-01T00:00:00Z","kind":"status","error":"503","status":503}]"#;
        Whereabouts::DeadLetter(StoredLetter {
            id: 7,
            event_id: "e".to_owned(),
            observer: "default/o".to_owned(),
            action: "post".to_owned(),
            attempts: 3,
            error_kind: "status".to_owned(),
            error: "503".to_owned(),
            history: RawValue::from_string(history.to_owned()).unwrap(),
            redrive_requested: false,
        })
    }

    /// State, attempts, and whether details are lost.
    fn after(
        state: DeliveryState,
        attempts: u32,
        found: &Whereabouts,
        drops: bool,
    ) -> Option<(DeliveryState, u32, bool)> {
        let settled = settled(&entry(state, attempts), found, drops)?;
        Some((settled.state, settled.attempts, settled.details_lost))
    }

    #[test]
    fn unreported_delivery_was_made_once_its_checkpoint_is_past_it() {
        use DeliveryState::{Completed, Delivered, Pending};
        assert_eq!(after(Pending, 0, &Whereabouts::Pending, false), None);
        let over = &Whereabouts::Over;
        assert_eq!(after(Pending, 0, over, false), Some((Delivered, 0, true)));
        assert_eq!(after(Pending, 0, over, true), Some((Completed, 0, true)));
    }

    #[test]
    fn job_that_is_gone_was_completed() {
        use DeliveryState::{Completed, Queued, Retrying};
        let over = &Whereabouts::Over;
        assert_eq!(after(Queued, 0, over, false), Some((Completed, 0, true)));
        let settled = settled(&entry(Retrying, 4), over, false).unwrap();
        assert_eq!((settled.state, settled.attempts), (Completed, 4));
        assert_eq!((settled.job, settled.due_at), (None, None));
    }

    #[test]
    fn jobs_and_dead_letters_are_told() {
        use DeliveryState::{DeadLetter, Delivered, Pending, Queued, Retrying};
        let waits = job(JobState::Scheduled, 2);
        assert_eq!(after(Pending, 0, &waits, false), Some((Retrying, 2, false)));
        assert_eq!(
            after(Retrying, 5, &waits, false),
            Some((Retrying, 5, false))
        );
        let blocked = job(JobState::Blocked, 0);
        assert_eq!(after(Pending, 0, &blocked, false), Some((Queued, 0, false)));
        let over = job(JobState::Completed, 3);
        assert_eq!(after(Retrying, 2, &over, false), Some((Delivered, 3, true)));
        let settled = settled(&entry(Retrying, 2), &letter(), false).unwrap();
        assert_eq!(
            (settled.state, settled.attempts, settled.dead_letter),
            (DeadLetter, 3, Some(7))
        );
        assert_eq!(settled.history[0].status, Some(503));
    }

    #[test]
    fn final_entry_stays_but_learns_the_id_of_its_dead_letter() {
        use DeliveryState::{DeadLetter, Delivered};
        assert_eq!(after(Delivered, 1, &Whereabouts::Over, false), None);
        assert_eq!(after(DeadLetter, 3, &Whereabouts::Over, false), None);
        let settled = settled(&entry(DeadLetter, 3), &letter(), false).unwrap();
        assert_eq!(settled.dead_letter, Some(7));
        assert!(Unsettled::Unreported.includes(&entry(DeadLetter, 3)));
        assert!(!Unsettled::Unreported.includes(&settled));
        assert!(!Unsettled::Unreported.includes(&entry(DeliveryState::Retrying, 1)));
        assert!(Unsettled::Unfinished.includes(&entry(DeliveryState::Retrying, 1)));
    }
}
