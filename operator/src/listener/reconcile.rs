//! A listener's objects and its status.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crds::resources::{DeletionPolicy, ObserverListener, ObserverListenerStatus};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::deletion::Ending;
use crate::cache::projection::{InvalidResource, Item, Parsed};
use crate::cache::{Index, Snapshot, owned_key};
use crate::events;
use crate::listener::apply;
use crate::listener::build::{self, Built, Fleet, Kind};
use crate::listener::finalizer::FINALIZER;
use crate::listener::pod_status::Reports;
use crate::listener::status::{self, Free, Pod, Refused, Seen, Workers};
use crate::listener::validate::{self, Bundle};
use crate::object_ref::{Key, Work};
use crate::observer::evaluation::{HeldUp, Verdict, judge};
use crate::publish::{write_finalizers, write_status};
use crate::reconcile::{Context, Done, ReconcileError, now};
use crate::work_queue::Outcome;

/// How soon the pods of a listener that has not converged are asked again.
const SOON: Duration = Duration::from_secs(2);

/// How soon those of one that has are.
const LATER: Duration = Duration::from_secs(10);

/// How often figures alone are worth a write of the status.
const FIGURES: Duration = Duration::from_secs(10);

/// What is kept of a listener between two reconciles.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(super) applied: apply::Memory,
    pub(super) ending: Ending,
    reports: Reports,
    free: Free,
    /// Since when fewer pods for jobs are ready than are asked for.
    short: Option<Timestamp>,
    plan: Option<Planned>,
    /// When the status was written last.
    written: Option<Instant>,
}

/// A plan without its text, for as long as what it was made from stays.
#[derive(Clone, Debug)]
struct Planned {
    inputs: u64,
    secrets: BTreeSet<Key>,
    bundle: Result<String, Refused>,
    observers: BTreeMap<Key, Option<Verdict>>,
}

/// What is known of a listener towards the end of its reconcile.
#[derive(Clone, Copy)]
struct Current<'a> {
    planned: &'a Planned,
    pods: &'a [Pod],
    verdicts: &'a BTreeMap<Key, Verdict>,
}

impl Context {
    pub(crate) async fn reconcile_listener(&self, key: &Key) -> Result<Done, ReconcileError> {
        let held = self.index().listener(key);
        let listener = match held {
            None => {
                self.memories().remove(key);
                return Ok(self.forget_listener(key));
            }
            Some(held) if held.meta().deletion_timestamp.is_some() => {
                return self.delete_listener(key, &held).await;
            }
            Some(Parsed::Invalid(invalid)) => return self.refuse_unreadable(key, &invalid).await,
            Some(Parsed::Valid(listener)) => listener,
        };
        let mut memory = self.memories().remove(key).unwrap_or_default();
        memory.ending = Ending::default();
        let done = self.run_listener(key, &listener, &mut memory).await;
        self.memories().insert(key.clone(), memory);
        done
    }

    /// What a listener said and read counts no more.
    pub(super) fn forget_listener(&self, key: &Key) -> Done {
        let mut index = self.index();
        index.reads(key, BTreeSet::new());
        Done {
            outcome: Outcome::Settled,
            concerns: index.judge(key, None),
        }
    }

    async fn run_listener(
        &self,
        key: &Key,
        listener: &Arc<ObserverListener>,
        memory: &mut Memory,
    ) -> Result<Done, ReconcileError> {
        let snapshot = self.index().snapshot(key, listener);
        let (mut planned, bundle) = self.plan(key, listener, &snapshot, memory).await?;
        let mut concerns = BTreeSet::new();
        let mut refused = false;
        if planned.bundle.is_ok() && !snapshot.terminating {
            concerns.extend(self.ensure_finalizer(key, listener).await?);
            let applied = self.apply_objects(key, listener, &snapshot, memory, bundle);
            match applied.await {
                Err(ReconcileError::Apply(error)) if error.refusal().is_some() => {
                    refused = true;
                    planned.bundle = Err(Refused {
                        reason: error.refusal().unwrap_or_default().to_owned(),
                        message: error.to_string(),
                    });
                }
                other => other?,
            }
        }
        let pods = self.pods.ask(snapshot.pods, &mut memory.reports).await;
        let verdicts = verdicts(listener, &planned, &pods);
        concerns.extend(self.index().judge(key, Some(verdicts.clone())));
        let current = Current {
            planned: &planned,
            pods: &pods,
            verdicts: &verdicts,
        };
        let (outcome, more) = self.update_status(key, listener, current, memory).await?;
        concerns.extend(more);
        let outcome = if refused { Outcome::Failed } else { outcome };
        Ok(Done { outcome, concerns })
    }

    /// Plans anew when something changed that the plan was made from, or when the bundle must be
    /// written again and its text is needed.
    async fn plan(
        &self,
        key: &Key,
        listener: &ObserverListener,
        snapshot: &Snapshot,
        memory: &mut Memory,
    ) -> Result<(Planned, Option<Bundle>), ReconcileError> {
        if let Some(planned) = &memory.plan
            && planned.inputs == inputs(listener, snapshot, &planned.secrets, &self.index())
            && (planned.bundle.is_err()
                || apply::untouched(Kind::Secret, &memory.applied, &snapshot.owned))
        {
            return Ok((planned.clone(), None));
        }
        let secrets = validate::references(key, listener, snapshot);
        let inputs = {
            let mut index = self.index();
            index.reads(key, secrets.clone());
            inputs(listener, snapshot, &secrets, &index)
        };
        let values = self
            .secrets
            .read(&self.client, &self.index, &secrets)
            .await
            .map_err(ReconcileError::Secrets)?;
        let plan = validate::plan(key, listener, snapshot, &values);
        let planned = Planned {
            inputs,
            secrets,
            bundle: match &plan.bundle {
                Ok(bundle) => Ok(bundle.hash.clone()),
                Err(refused) => Err(refused.clone()),
            },
            observers: plan.observers,
        };
        memory.plan = Some(planned.clone());
        Ok((planned, plan.bundle.ok()))
    }

    /// Before anything can write rows, the listener is kept from going without them.
    async fn ensure_finalizer(
        &self,
        key: &Key,
        listener: &ObserverListener,
    ) -> Result<BTreeSet<Work>, ReconcileError> {
        let mut finalizers = listener.metadata.finalizers.clone().unwrap_or_default();
        let wanted = listener.spec.deletion_policy == DeletionPolicy::Delete;
        if !wanted || finalizers.iter().any(|name| name == FINALIZER) {
            return Ok(BTreeSet::new());
        }
        finalizers.push(FINALIZER.to_owned());
        let meta = &listener.metadata;
        let object = write_finalizers::<ObserverListener>(&self.client, meta, &finalizers)
            .await
            .map_err(ReconcileError::Finalizer)?;
        self.metrics.writes.with_label_values(&["finalizer"]).inc();
        let item = Item::Listener(Parsed::from(object));
        // It may have changed meanwhile.
        Ok(self.index().put(key.clone(), item))
    }

    async fn apply_objects(
        &self,
        key: &Key,
        listener: &ObserverListener,
        snapshot: &Snapshot,
        memory: &mut Memory,
        bundle: Option<Bundle>,
    ) -> Result<(), ReconcileError> {
        let fleet = Fleet::new(listener, &self.installation);
        let mut wanted = fleet.objects()?;
        if let Some(bundle) = bundle {
            wanted.push(fleet.bundle(bundle.text.reveal(), &bundle.hash)?);
        }
        wanted.sort_by_key(|built| built.kind);
        let seen = &snapshot.owned;
        let is_due = |built: &&Built| apply::due(built, &memory.applied, seen.get(&built.kind));
        let due: Vec<&Built> = wanted.iter().filter(is_due).collect();
        let (client, namespace) = (&self.client, &key.namespace);
        let uids = apply::find(client, namespace, &fleet.uid, &due, seen).await?;
        for built in due {
            let kind = built.kind;
            let uid = uids.get(&kind).map(String::as_str);
            let seen = apply::apply(client, namespace, built, uid, &mut memory.applied).await?;
            self.count_write(kind);
            if let Some(seen) = seen {
                self.index().applied(kind, &owned_key(kind, key), seen);
            }
        }
        for (kind, seen) in &snapshot.owned {
            let kind = *kind;
            let kept = kind == Kind::Secret || wanted.iter().any(|built| built.kind == kind);
            if !kept {
                apply::delete(client, kind, &owned_key(kind, key), &seen.uid).await?;
                memory.applied.remove(&kind);
                self.count_write(kind);
            }
        }
        Ok(())
    }

    async fn update_status(
        &self,
        key: &Key,
        listener: &ObserverListener,
        current: Current<'_>,
        memory: &mut Memory,
    ) -> Result<(Outcome, BTreeSet<Work>), ReconcileError> {
        // What was applied or seen since the beginning counts.
        let (held, deployment, workers) = {
            let index = self.index();
            let deployments = (index.deployment(key), index.workers(key));
            (index.listener(key), deployments.0, deployments.1)
        };
        let Some(Parsed::Valid(held)) = held else {
            return Ok((Outcome::Settled, BTreeSet::new()));
        };
        let before = held.status.clone().unwrap_or_default();
        let bundle = &current.planned.bundle;
        let spec = &listener.spec;
        memory.free.note(current.pods, spec.shards, now());
        let workers = Workers {
            wanted: build::workers(listener),
            deployment: workers.as_ref(),
            short: None,
        };
        memory.short = workers.is_short().then(|| memory.short.unwrap_or_else(now));
        let seen = Seen {
            namespace: &key.namespace,
            name: &key.name,
            generation: listener.metadata.generation.unwrap_or_default(),
            wanted: spec.replicas,
            shards: spec.shards,
            stalled_after: spec.stalled_after.duration(),
            free: &memory.free,
            refused: bundle.as_ref().err(),
            bundle: bundle.as_deref().ok(),
            deployment: deployment.as_ref(),
            workers: Workers {
                short: memory.short,
                ..workers
            },
            pods: current.pods,
            verdicts: current.verdicts,
        };
        let mut status = status::compute_status(seen, &before, now());
        let lately = |at: Instant| at.elapsed() < FIGURES;
        if memory.written.is_some_and(lately) {
            status::keep_figures(&mut status, &before);
        }
        let mut concerns = BTreeSet::new();
        if status != before {
            concerns = self.write_status(key, listener, &before, &status).await?;
            memory.written = Some(Instant::now());
        }
        // All else is told by the watches.
        let asked = current.pods.iter().any(|pod| pod.seen.ip.is_some());
        let asked = asked || memory.short.is_some();
        let converged = status::converged(&status) && memory.free.is_empty();
        let outcome = match (asked, converged) {
            (false, _) => Outcome::Settled,
            (true, true) => Outcome::Again(LATER),
            (true, false) => Outcome::Again(SOON),
        };
        Ok((outcome, concerns))
    }

    async fn write_status(
        &self,
        key: &Key,
        listener: &ObserverListener,
        before: &ObserverListenerStatus,
        status: &ObserverListenerStatus,
    ) -> Result<BTreeSet<Work>, ReconcileError> {
        let meta = &listener.metadata;
        let object = match write_status::<ObserverListener>(&self.client, meta, status).await {
            Ok(object) => object,
            Err(error) if apply::is_gone(&error) => return Ok(BTreeSet::new()),
            Err(error) => return Err(ReconcileError::Status(error)),
        };
        self.metrics.writes.with_label_values(&["status"]).inc();
        let item = Item::Listener(Parsed::from(object));
        // It may have changed meanwhile.
        let concerns = self.index().put(key.clone(), item);
        let notices = events::of_listener(&before.conditions, &status.conditions);
        self.publisher
            .events::<ObserverListener>(meta, notices)
            .await;
        Ok(concerns)
    }

    /// A listener that cannot be read is left as it runs.
    async fn refuse_unreadable(
        &self,
        key: &Key,
        invalid: &InvalidResource,
    ) -> Result<Done, ReconcileError> {
        let done = self.forget_listener(key);
        let refused = Refused {
            reason: "Invalid".to_owned(),
            message: invalid.error.clone(),
        };
        let seen = Seen {
            namespace: &key.namespace,
            name: &key.name,
            generation: invalid.metadata.generation.unwrap_or_default(),
            wanted: 1,
            shards: 0,
            stalled_after: Duration::MAX,
            free: &Free::default(),
            refused: Some(&refused),
            bundle: None,
            deployment: None,
            workers: Workers::default(),
            pods: &[],
            verdicts: &BTreeMap::new(),
        };
        let status = status::compute_status(seen, &ObserverListenerStatus::default(), now());
        write_status::<ObserverListener>(&self.client, &invalid.metadata, &status)
            .await
            .map_err(ReconcileError::Status)?;
        let notices = events::of_listener(&[], &status.conditions);
        self.publisher
            .events::<ObserverListener>(&invalid.metadata, notices)
            .await;
        Ok(done)
    }

    pub(super) fn count_write(&self, kind: Kind) {
        let kind = kind.resource().kind;
        self.metrics.writes.with_label_values(&[&kind]).inc();
    }
}

/// A digest of everything that a plan is made from.
fn inputs(
    listener: &ObserverListener,
    snapshot: &Snapshot,
    secrets: &BTreeSet<Key>,
    index: &Index,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut add = |meta: &kube::core::ObjectMeta| {
        meta.uid.hash(&mut hasher);
        meta.generation.hash(&mut hasher);
        meta.labels.hash(&mut hasher);
    };
    add(&listener.metadata);
    for observer in &snapshot.observers {
        add(&observer.metadata);
    }
    for rival in &snapshot.rivals {
        add(&rival.metadata);
    }
    snapshot.unreadable.hash(&mut hasher);
    (&snapshot.not_allowed, snapshot.labelled).hash(&mut hasher);
    snapshot.namespaces.hash(&mut hasher);
    for secret in secrets {
        (secret, index.secret(secret)).hash(&mut hasher);
    }
    hasher.finish()
}

fn verdicts(
    listener: &ObserverListener,
    planned: &Planned,
    pods: &[Pod],
) -> BTreeMap<Key, Verdict> {
    let reports: Vec<_> = pods.iter().filter_map(|pod| pod.report.as_ref()).collect();
    let held_up = match &planned.bundle {
        Err(refused) => Some(HeldUp {
            reason: refused.reason.clone(),
            message: refused.message.clone(),
        }),
        Ok(_) if listener.spec.replicas == 0 => Some(HeldUp {
            reason: "ScaledToZero".to_owned(),
            message: "it has no pods; set its spec.replicas to 1 or more".to_owned(),
        }),
        Ok(_) => None,
    };
    let bundle = planned.bundle.as_deref().ok();
    judge(&planned.observers, bundle, &reports, held_up.as_ref())
}
