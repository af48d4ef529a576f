//! Deletes a listener: its pods stop, a Job removes its rows, and then the finalizer goes. Its objects
//! and the Leases of its pods have it or its pods as owners, so the garbage collector removes them.

use crds::bundle::CheckedObservers;
use crds::v1alpha1::{DeletionPolicy, ObserverListener};
use tokio::time::Instant;

use super::reconcile::ListenerState;
use crate::cache::projection::Parsed;
use crate::cache::{Snapshot, identity, owned_key};
use crate::events::EventDraft;
use crate::listener::apply;
use crate::listener::build::{Kind, ListenerResources};
use crate::listener::finalizer::{self, CleanupStatus, FINALIZER};
use crate::listener::validate::{self, SecretValues};
use crate::object_ref::ObjectRef;
use crate::publish::write_finalizers;
use crate::reconcile::{Context, ReconcileError, ReconcileResult};
use crate::work_queue::ReconcileAction;

/// Progress of a deletion, as far as this operator drove it itself.
#[derive(Debug, Default)]
pub(super) struct DeletionState {
    /// When the deletion was first seen.
    since: Option<Instant>,
    /// When the Job was first seen.
    begun: Option<Instant>,
    /// Number of times that the API server rejected the Job.
    rejections: u32,
    /// Last known reason why the Job's pods fail.
    why: Option<String>,
}

impl Context {
    pub(super) async fn delete_listener(
        &self,
        key: &ObjectRef,
        held: &Parsed<ObserverListener>,
    ) -> Result<ReconcileResult, ReconcileError> {
        let also_enqueue = self.index().set_evaluations(key, None);
        let meta = held.meta();
        let finalizers = meta.finalizers.iter().flatten();
        if !finalizers.clone().any(|name| name == FINALIZER) {
            return Ok(ReconcileResult {
                action: ReconcileAction::AwaitChange,
                also_enqueue,
            });
        }
        let rows = match held {
            Parsed::Valid(listener) => {
                let mut state = self.states().remove(key).unwrap_or_default();
                let rows = self.clean_up(key, listener, &mut state).await;
                self.states().insert(key.clone(), state);
                rows?
            }
            Parsed::Invalid(_) => Some(EventDraft::warning(
                "CleanupSkipped",
                "the listener cannot be read, so its rows in the database were left",
            )),
        };
        let Some(draft) = rows else {
            return Ok(ReconcileResult {
                action: ReconcileAction::RequeueAfter(finalizer::POLL_INTERVAL),
                also_enqueue,
            });
        };
        tracing::info!(listener = %key, reason = draft.reason, "{}", draft.note);
        self.publisher
            .events::<ObserverListener>(meta, vec![draft])
            .await;
        let others: Vec<String> = finalizers
            .filter(|name| *name != FINALIZER)
            .cloned()
            .collect();
        match write_finalizers::<ObserverListener>(&self.client, meta, &others).await {
            Ok(_) => self
                .metrics
                .object_writes
                .with_label_values(&["finalizer"])
                .inc(),
            Err(error) if apply::is_gone(&error) => {}
            Err(error) => return Err(ReconcileError::Finalizer(error)),
        }
        Ok(ReconcileResult {
            action: ReconcileAction::AwaitChange,
            also_enqueue,
        })
    }

    /// Drives the cleanup. Returns the Event that ends it, or nothing while it goes on.
    async fn clean_up(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        state: &mut ListenerState,
    ) -> Result<Option<EventDraft>, ReconcileError> {
        if listener.spec.deletion_policy == DeletionPolicy::Retain {
            return Ok(Some(EventDraft::normal(
                "DataRetained",
                "its rows in the database stay, as spec.deletionPolicy says",
            )));
        }
        let snapshot = self.index().snapshot(key, listener);
        if snapshot.terminating {
            return Ok(Some(cleanup_skipped(key, listener, NAMESPACE_TERMINATING)));
        }
        let since = *state.deletion.since.get_or_insert_with(Instant::now);
        let workloads = [Kind::Deployment, Kind::Workers];
        let pods = !snapshot.pods.is_empty()
            || snapshot.workers
            || workloads
                .iter()
                .any(|kind| snapshot.owned.contains_key(kind));
        if finalizer::must_wait_for_pods(since.elapsed(), pods) {
            for kind in workloads {
                if let Some(seen) = snapshot.owned.get(&kind) {
                    apply::delete(&self.client, kind, &owned_key(kind, key), &seen.uid).await?;
                }
            }
            return Ok(None);
        }
        match self.run_cleanup_job(key, listener, &snapshot, state).await {
            Err(ReconcileError::Apply(error)) if error.rejection_reason().is_some() => {
                state.deletion.rejections += 1;
                if error.is_namespace_terminating() {
                    return Ok(Some(cleanup_skipped(key, listener, NAMESPACE_TERMINATING)));
                }
                let is_last = finalizer::attempts_exhausted(state.deletion.rejections);
                Ok(is_last.then(|| cleanup_skipped(key, listener, &error.to_string())))
            }
            other => other,
        }
    }

    /// Checks the Job that removes the rows, and starts it where it is missing.
    async fn run_cleanup_job(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        snapshot: &Snapshot,
        state: &mut ListenerState,
    ) -> Result<Option<EventDraft>, ReconcileError> {
        let resources = ListenerResources::new(listener, 1, &self.installation);
        let Some(job) = apply::find_cleanup_job(&self.client, &resources).await? else {
            return self
                .start_cleanup_job(key, listener, snapshot, &resources, state)
                .await;
        };
        let begun = *state.deletion.begun.get_or_insert_with(Instant::now);
        let pods = apply::cleanup_job_pods(&self.client, &resources).await?;
        let why = finalizer::failure_message(&pods).or_else(|| state.deletion.why.take());
        state.deletion.why.clone_from(&why);
        Ok(match finalizer::cleanup_status(&job, why.as_deref()) {
            CleanupStatus::Succeeded => Some(EventDraft::normal(
                "CleanupSucceeded",
                "its progress, dead letters and history were removed",
            )),
            CleanupStatus::Failed(why) => Some(cleanup_skipped(key, listener, &why)),
            CleanupStatus::Running if finalizer::is_overdue(begun.elapsed()) => {
                let why = why.as_deref();
                let why = why.unwrap_or("the Job that removes them does not finish");
                Some(cleanup_skipped(key, listener, why))
            }
            CleanupStatus::Running => None,
        })
    }

    /// Creates the Job, and before it what the Job needs and is missing.
    async fn start_cleanup_job(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        snapshot: &Snapshot,
        resources: &ListenerResources,
        state: &mut ListenerState,
    ) -> Result<Option<EventDraft>, ReconcileError> {
        let wanted = validate::references(key, listener, snapshot);
        let values = self.secrets.read_or_cached(&self.client, &wanted).await;
        if let Some(successor) = successor(key, listener, snapshot, &values) {
            let note = format!(
                "listener {successor} has the same identity, so the rows in the database were left to it"
            );
            return Ok(Some(EventDraft::warning("CleanupSkipped", note)));
        }
        let mut needed = resources.objects()?;
        needed.retain(|built| built.kind == Kind::ServiceAccount);
        if !snapshot.owned.contains_key(&Kind::Secret) {
            // It was deleted by hand, or by a deletion that begins with what is owned.
            let checked = &mut CheckedObservers::default();
            match validate::plan(key, listener, snapshot, &values, checked).bundle {
                // The first part has all that it takes.
                Ok(bundle) => needed.extend(resources.bundle(&bundle)?.into_iter().take(1)),
                Err(rejection) => {
                    return Ok(Some(cleanup_skipped(key, listener, &rejection.message)));
                }
            }
        }
        needed.retain(|built| !snapshot.owned.contains_key(&built.kind));
        let (client, namespace) = (&self.client, &key.namespace);
        let due: Vec<_> = needed.iter().collect();
        let uids = apply::find(client, namespace, &resources.uid, &due, &snapshot.owned).await?;
        for built in due.into_iter().filter(|one| !uids.contains_key(&one.kind)) {
            apply::apply(client, namespace, built, None, &mut state.applied).await?;
            self.count_write(built.kind);
        }
        apply::start_cleanup_job(client, resources).await?;
        self.metrics.object_writes.with_label_values(&["Job"]).inc();
        Ok(None)
    }
}

const NAMESPACE_TERMINATING: &str =
    "its namespace is deleted too, so no pod can be created there to remove them";

fn cleanup_skipped(key: &ObjectRef, listener: &ObserverListener, why: &str) -> EventDraft {
    let identity = identity(key, listener);
    EventDraft::warning(
        "CleanupSkipped",
        format!(
            "its progress and dead letters may still be in the database and hold back the removal of old events; \
             run select observer.drop_listener('{identity}') there. Not everything was removed: {why}"
        ),
    )
}

/// Returns another listener of the same identity on the same database. One whose database is unknown
/// counts, so that nothing is removed that it may need.
fn successor(
    key: &ObjectRef,
    listener: &ObserverListener,
    snapshot: &Snapshot,
    values: &SecretValues,
) -> Option<ObjectRef> {
    let own = validate::database(key, listener, values);
    snapshot
        .identity_conflicts
        .iter()
        .map(|peer| (ObjectRef::of(&peer.metadata), peer))
        .find(|(other, peer)| {
            let database = validate::database(other, peer, values);
            database.is_none() || database == own
        })
        .map(|(other, _)| other)
}
