//! The status of an observer, from what the listeners that select it say.

use crds::resources::{Observer, ObserverStatus};

use super::publish::write_status;
use super::{Context, Done, ReconcileError, now};
use crate::key::Key;
use crate::notices;
use crate::queue::Outcome;
use crate::seen::{Item, Parsed};
use crate::status;
use crate::verdict::Verdict;

impl Context {
    pub(super) async fn reconcile_observer(&self, key: &Key) -> Result<Done, ReconcileError> {
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
        let status = status::observer(generation, unreadable, &verdicts, before, now());
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
            Err(error) if crate::apply::is_gone(&error) => {
                return Ok(Done::with(Outcome::Settled));
            }
            Err(error) => return Err(ReconcileError::Status(error)),
        };
        let notices = notices::of_observer(&before.conditions, &status.conditions);
        self.publisher.events::<Observer>(meta, notices).await;
        Ok(Done {
            outcome: Outcome::Settled,
            concerns,
        })
    }
}
