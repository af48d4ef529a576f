//! The end of a listener: its pods stop, its rows go, and then it goes itself. All that was made for
//! it has it as owner, or one of its pods, and goes with that, the Leases of its pods too.

use crds::resources::{DeletionPolicy, ObserverListener};

use super::publish::write_finalizers;
use super::{Context, Done, ReconcileError, now};
use crate::apply;
use crate::build::Kind;
use crate::finalize::{self, FINALIZER, Going, Step, forget, step};
use crate::index::{Snapshot, identity, owned_key};
use crate::key::Key;
use crate::notices::Notice;
use crate::queue::Outcome;
use crate::seen::Held;
use crate::validate::{self, SecretValues};

impl Context {
    pub(super) async fn delete_listener(
        &self,
        key: &Key,
        held: &Held<ObserverListener>,
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
            Held::Right(listener) => self.remove_rows(key, listener).await?,
            Held::Wrong(_) => Some(Notice::warning(
                "RowsKept",
                "the listener cannot be read, so its rows in the database were left",
            )),
        };
        let Some(notice) = rows else {
            return Ok(Done {
                outcome: Outcome::Again(finalize::PAUSE),
                concerns,
            });
        };
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
    ) -> Result<Option<Notice>, ReconcileError> {
        let kept = |note: String| Some(Notice::warning("RowsKept", note));
        let snapshot = self.index().snapshot(key, listener);
        let wanted = validate::references(key, listener, &without_observers(&snapshot));
        let values = self.secrets.read_last(&self.client, &wanted).await;
        let url = validate::database_url(key, listener, &values);
        let since = listener.metadata.deletion_timestamp.as_ref();
        let workloads = [Kind::Deployment, Kind::Workers];
        let going = Going {
            since: since.map_or_else(now, |time| time.0),
            pods: !snapshot.pods.is_empty()
                || snapshot.workers
                || workloads
                    .iter()
                    .any(|kind| snapshot.owned.contains_key(kind)),
            terminating: snapshot.terminating,
            url: url.is_some(),
        };
        let Step::Forget { last } = step(going, now()) else {
            for kind in workloads {
                if let Some(seen) = snapshot.owned.get(&kind) {
                    apply::delete(&self.client, kind, &owned_key(kind, key), &seen.uid).await?;
                }
            }
            return Ok(None);
        };
        if listener.spec.deletion_policy == DeletionPolicy::Retain {
            return Ok(Some(Notice::normal(
                "RowsRetained",
                "its rows in the database stay, as spec.deletionPolicy says",
            )));
        }
        if let Some(heir) = heir(key, listener, &snapshot, &values) {
            return Ok(kept(format!(
                "listener {heir} has the same identity, so the rows in the database were left to it"
            )));
        }
        let identity = identity(key, listener);
        match forget(url.as_ref(), &key.namespace, &identity).await {
            Ok(rows) => Ok(Some(Notice::normal(
                "RowsRemoved",
                format!("removed {rows} rows of progress and dead letters from the database"),
            ))),
            Err(error) if last => Ok(kept(format!(
                "its progress and dead letters are still in the database and hold back the removal \
                 of old events: {error}; run select observer.forget('{identity}') there"
            ))),
            Err(error) => {
                tracing::info!(listener = %key, %error, "cannot remove its rows yet");
                Ok(None)
            }
        }
    }
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

fn without_observers(snapshot: &Snapshot) -> Snapshot {
    Snapshot {
        observers: Vec::new(),
        ..snapshot.clone()
    }
}
