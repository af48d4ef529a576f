//! The status of an observer, from what the listeners that select it say.

use crds::resources::{Observer, ObserverStatus};

use super::status;
use crate::cache::projection::{Item, Parsed};
use crate::events;
use crate::object_ref::Key;
use crate::observer::evaluation::Verdict;
use crate::publish::write_status;
use crate::reconcile::{Context, Done, ReconcileError, now};
use crate::work_queue::Outcome;

impl Context {
    pub(crate) async fn reconcile_observer(&self, key: &Key) -> Result<Done, ReconcileError> {
        let (held, verdicts) = {
            let index = self.index();
            (index.observer(key), index.verdicts(key))
        };
        let Some(held) = held else {
            return Ok(Done::with(Outcome::Settled));
        };
        let meta = held.meta();
        // A listener that has not said anything yet will, and has this looked at again.
        let verdicts: Option<Vec<(Key, Verdict)>> = verdicts
            .into_iter()
            .map(|(listener, verdict)| Some((listener, verdict?)))
            .collect();
        let Some(verdicts) = verdicts.filter(|_| meta.deletion_timestamp.is_none()) else {
            return Ok(Done::with(Outcome::Settled));
        };
        let none = ObserverStatus::default();
        let (before, unreadable) = match &held {
            Parsed::Valid(observer) => (observer.status.as_ref().unwrap_or(&none), None),
            Parsed::Invalid(invalid) => (&none, Some(&*invalid.error)),
        };
        let generation = meta.generation.unwrap_or_default();
        let status = status::compute_status(generation, unreadable, &verdicts, before, now());
        if status == *before {
            return Ok(Done::with(Outcome::Settled));
        }
        let concerns = match write_status::<Observer>(&self.client, meta, &status).await {
            Ok(object) => {
                self.metrics.writes.with_label_values(&["status"]).inc();
                let item = Item::Observer(Parsed::from(object));
                // It may have changed meanwhile.
                self.index().put(key.clone(), item)
            }
            Err(error) if crate::listener::apply::is_gone(&error) => {
                return Ok(Done::with(Outcome::Settled));
            }
            Err(error) => return Err(ReconcileError::Status(error)),
        };
        let notices = events::of_observer(&before.conditions, &status.conditions);
        self.publisher.events::<Observer>(meta, notices).await;
        Ok(Done {
            outcome: Outcome::Settled,
            concerns,
        })
    }
}
