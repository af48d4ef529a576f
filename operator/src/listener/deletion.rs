//! The end of a listener: its pods stop, its rows go, and then it goes itself. All that was made for
//! it has it as owner, or one of its pods, and goes with that, the Leases of its pods too.

use crds::resources::{DeletionPolicy, ObserverListener};
use tokio::time::Instant;

use super::reconcile::Memory;
use crate::cache::projection::Parsed;
use crate::cache::{Snapshot, identity, owned_key};
use crate::events::Notice;
use crate::listener::apply;
use crate::listener::build::{Fleet, Kind};
use crate::listener::finalizer::{self, FINALIZER, Removal};
use crate::listener::validate::{self, SecretValues};
use crate::object_ref::Key;
use crate::publish::write_finalizers;
use crate::reconcile::{Context, Done, ReconcileError};
use crate::work_queue::Outcome;

/// What this operator has done and seen of a listener that is deleted.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Since when it is known to be deleted.
    since: Option<Instant>,
    /// Since when the Job is there.
    begun: Option<Instant>,
    /// How often the API server refused it.
    refused: u32,
    /// Why the Job's pods did not get on last.
    why: Option<String>,
}

impl Context {
    pub(super) async fn delete_listener(
        &self,
        key: &Key,
        held: &Parsed<ObserverListener>,
    ) -> Result<Done, ReconcileError> {
        let concerns = self.index().judge(key, None);
        let meta = held.meta();
        let finalizers = meta.finalizers.iter().flatten();
        if !finalizers.clone().any(|name| name == FINALIZER) {
            return Ok(Done {
                outcome: Outcome::Settled,
                concerns,
            });
        }
        let rows = match held {
            Parsed::Valid(listener) => {
                let mut memory = self.memories().remove(key).unwrap_or_default();
                let rows = self.remove_rows(key, listener, &mut memory).await;
                self.memories().insert(key.clone(), memory);
                rows?
            }
            Parsed::Invalid(_) => Some(Notice::warning(
                "RowsKept",
                "the listener cannot be read, so its rows in the database were left",
            )),
        };
        let Some(notice) = rows else {
            return Ok(Done {
                outcome: Outcome::Again(finalizer::PAUSE),
                concerns,
            });
        };
        tracing::info!(listener = %key, reason = notice.reason, "{}", notice.note);
        self.publisher
            .events::<ObserverListener>(meta, vec![notice])
            .await;
        let others: Vec<String> = finalizers
            .filter(|name| *name != FINALIZER)
            .cloned()
            .collect();
        match write_finalizers::<ObserverListener>(&self.client, meta, &others).await {
            Ok(_) => self.metrics.writes.with_label_values(&["finalizer"]).inc(),
            Err(error) if apply::is_gone(&error) => {}
            Err(error) => return Err(ReconcileError::Finalizer(error)),
        }
        Ok(Done {
            outcome: Outcome::Settled,
            concerns,
        })
    }

    /// What came of the rows; nothing while it goes on.
    async fn remove_rows(
        &self,
        key: &Key,
        listener: &ObserverListener,
        memory: &mut Memory,
    ) -> Result<Option<Notice>, ReconcileError> {
        if listener.spec.deletion_policy == DeletionPolicy::Retain {
            return Ok(Some(Notice::normal(
                "RowsRetained",
                "its rows in the database stay, as spec.deletionPolicy says",
            )));
        }
        let snapshot = self.index().snapshot(key, listener);
        if snapshot.terminating {
            return Ok(Some(kept(key, listener, NAMESPACE_GOES)));
        }
        let since = *memory.ending.since.get_or_insert_with(Instant::now);
        let workloads = [Kind::Deployment, Kind::Workers];
        let pods = !snapshot.pods.is_empty()
            || snapshot.workers
            || workloads
                .iter()
                .any(|kind| snapshot.owned.contains_key(kind));
        if finalizer::waits_for_pods(since.elapsed(), pods) {
            for kind in workloads {
                if let Some(seen) = snapshot.owned.get(&kind) {
                    apply::delete(&self.client, kind, &owned_key(kind, key), &seen.uid).await?;
                }
            }
            return Ok(None);
        }
        match self.run_removal(key, listener, &snapshot, memory).await {
            Err(ReconcileError::Apply(error)) if error.refusal().is_some() => {
                memory.ending.refused += 1;
                if error.is_namespace_going() {
                    return Ok(Some(kept(key, listener, NAMESPACE_GOES)));
                }
                let is_last = finalizer::is_last_try(memory.ending.refused);
                Ok(is_last.then(|| kept(key, listener, &error.to_string())))
            }
            other => other,
        }
    }

    /// Has a Job remove the rows, and looks what came of it.
    async fn run_removal(
        &self,
        key: &Key,
        listener: &ObserverListener,
        snapshot: &Snapshot,
        memory: &mut Memory,
    ) -> Result<Option<Notice>, ReconcileError> {
        let fleet = Fleet::new(listener, &self.installation);
        let Some(job) = apply::find_removal(&self.client, &fleet).await? else {
            return self
                .begin_removal(key, listener, snapshot, &fleet, memory)
                .await;
        };
        let begun = *memory.ending.begun.get_or_insert_with(Instant::now);
        let pods = apply::removal_pods(&self.client, &fleet).await?;
        let why = finalizer::why(&pods).or_else(|| memory.ending.why.take());
        memory.ending.why.clone_from(&why);
        Ok(match finalizer::removal(&job, why.as_deref()) {
            Removal::Done => Some(Notice::normal(
                "RowsRemoved",
                "its progress and dead letters were removed from the database",
            )),
            Removal::Failed(why) => Some(kept(key, listener, &why)),
            Removal::UnderWay if finalizer::is_late(begun.elapsed()) => {
                let why = why.as_deref();
                let why = why.unwrap_or("the Job that removes them does not come to an end");
                Some(kept(key, listener, why))
            }
            Removal::UnderWay => None,
        })
    }

    /// Makes the Job, and before it what the Job needs and is not there any more.
    async fn begin_removal(
        &self,
        key: &Key,
        listener: &ObserverListener,
        snapshot: &Snapshot,
        fleet: &Fleet,
        memory: &mut Memory,
    ) -> Result<Option<Notice>, ReconcileError> {
        let wanted = validate::references(key, listener, snapshot);
        let values = self.secrets.read_last(&self.client, &wanted).await;
        if let Some(heir) = heir(key, listener, snapshot, &values) {
            let note = format!(
                "listener {heir} has the same identity, so the rows in the database were left to it"
            );
            return Ok(Some(Notice::warning("RowsKept", note)));
        }
        let mut needed = fleet.objects()?;
        needed.retain(|built| built.kind == Kind::ServiceAccount);
        if !snapshot.owned.contains_key(&Kind::Secret) {
            // It was deleted by hand, or by a deletion that begins with what is owned.
            match validate::plan(key, listener, snapshot, &values).bundle {
                Ok(bundle) => needed.push(fleet.bundle(bundle.text.reveal(), &bundle.hash)?),
                Err(refused) => return Ok(Some(kept(key, listener, &refused.message))),
            }
        }
        needed.retain(|built| !snapshot.owned.contains_key(&built.kind));
        let (client, namespace) = (&self.client, &key.namespace);
        let due: Vec<_> = needed.iter().collect();
        let uids = apply::find(client, namespace, &fleet.uid, &due, &snapshot.owned).await?;
        for built in due.into_iter().filter(|one| !uids.contains_key(&one.kind)) {
            apply::apply(client, namespace, built, None, &mut memory.applied).await?;
            self.count_write(built.kind);
        }
        apply::begin_removal(client, fleet).await?;
        self.metrics.writes.with_label_values(&["Job"]).inc();
        Ok(None)
    }
}

const NAMESPACE_GOES: &str =
    "its namespace is deleted too, so that no pod can be made there to remove them";

fn kept(key: &Key, listener: &ObserverListener, why: &str) -> Notice {
    let identity = identity(key, listener);
    Notice::warning(
        "RowsKept",
        format!(
            "its progress and dead letters may still be in the database and hold back the removal of old events; \
             run select observer.forget('{identity}') there. They were not removed: {why}"
        ),
    )
}

/// Another listener of the same identity on the same database. Where it cannot be told, nothing is
/// removed that it may need.
fn heir(
    key: &Key,
    listener: &ObserverListener,
    snapshot: &Snapshot,
    values: &SecretValues,
) -> Option<Key> {
    let own = validate::database(key, listener, values);
    snapshot
        .rivals
        .iter()
        .map(|rival| (Key::of(&rival.metadata), rival))
        .find(|(other, rival)| {
            let database = validate::database(other, rival, values);
            database.is_none() || database == own
        })
        .map(|(other, _)| other)
}
