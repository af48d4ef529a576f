//! Updates the status of an observer.

use crds::inline_secrets::inline_secrets;
use crds::v1alpha1::{Observer, ObserverStatus};

use super::status;
use crate::cache::projection::{CachedObject, Parsed};
use crate::events;
use crate::object_ref::ObjectRef;
use crate::observer::evaluation::ObserverEvaluation;
use crate::publish::write_status;
use crate::reconcile::{Context, ReconcileError, ReconcileResult, now};
use crate::work_queue::ReconcileAction;

impl Context {
    pub(crate) async fn reconcile_observer(
        &self,
        key: &ObjectRef,
    ) -> Result<ReconcileResult, ReconcileError> {
        let (held, evaluations) = {
            let index = self.index();
            (index.observer(key), index.evaluations(key))
        };
        let Some(held) = held else {
            return Ok(ReconcileResult::with(ReconcileAction::AwaitChange));
        };
        let meta = held.meta();
        // A listener that has not said anything yet will, and has this looked at again.
        let evaluations: Option<Vec<(ObjectRef, ObserverEvaluation)>> = evaluations
            .into_iter()
            .map(|(listener, evaluation)| Some((listener, evaluation?)))
            .collect();
        let Some(evaluations) = evaluations.filter(|_| meta.deletion_timestamp.is_none()) else {
            return Ok(ReconcileResult::with(ReconcileAction::AwaitChange));
        };
        let none = ObserverStatus::default();
        let (before, unreadable, inline) = match &held {
            Parsed::Valid(observer) => {
                let before = observer.status.as_ref().unwrap_or(&none);
                (before, None, inline_secrets(&observer.spec))
            }
            Parsed::Invalid(invalid) => (&none, Some(&*invalid.error), Vec::new()),
        };
        let generation = meta.generation.unwrap_or_default();
        let status =
            status::compute_status(generation, unreadable, &inline, &evaluations, before, now());
        if status == *before {
            return Ok(ReconcileResult::with(ReconcileAction::AwaitChange));
        }
        let also_enqueue = match write_status::<Observer>(&self.client, meta, &status).await {
            Ok(object) => {
                self.metrics
                    .object_writes
                    .with_label_values(&["status"])
                    .inc();
                let item = CachedObject::Observer(Parsed::from(object));
                // It may have changed meanwhile.
                self.index().upsert(key.clone(), item)
            }
            Err(error) if crate::listener::apply::is_gone(&error) => {
                return Ok(ReconcileResult::with(ReconcileAction::AwaitChange));
            }
            Err(error) => return Err(ReconcileError::Status(error)),
        };
        let drafts = events::observer_events(&before.conditions, &status.conditions);
        self.publisher.events::<Observer>(meta, drafts).await;
        Ok(ReconcileResult {
            action: ReconcileAction::AwaitChange,
            also_enqueue,
        })
    }
}
