//! Reconciles a listener: what it should have, its objects, and what it says of its observers.

mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::bundle::CheckedObservers;
use crds::v1alpha1::{AutoscalingStatus, DeletionPolicy, ObserverListener};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use self::inputs::inputs;
use super::deletion::DeletionState;
use crate::cache::projection::{CachedObject, Parsed};
use crate::cache::{Snapshot, owned_key};
use crate::events::EventDraft;
use crate::listener::apply;
use crate::listener::autoscale::{Autoscaler, Load, bounded};
use crate::listener::build::{DesiredObject, Kind, ListenerResources};
use crate::listener::derived_egress::DerivedEgress;
use crate::listener::finalizer::FINALIZER;
use crate::listener::pod_status::PodStatuses;
use crate::listener::status::{PodView, Rejection, UnownedShards};
use crate::listener::validate::{self, Bundle, BundleId};
use crate::object_ref::{ObjectRef, ReconcileRequest};
use crate::observer::evaluation::{BlockedReason, ObserverEvaluation, evaluate};
use crate::publish::write_finalizers;
use crate::reconcile::{Context, ReconcileError, ReconcileResult, now};
use crate::work_queue::ReconcileAction;

/// State of a listener that the operator keeps between two reconciles.
#[derive(Debug, Default)]
pub(crate) struct ListenerState {
    pub(super) applied: apply::ApplyCache,
    pub(super) deletion: DeletionState,
    pub(super) reports: PodStatuses,
    pub(super) unowned_since: UnownedShards,
    /// Since when fewer workers are ready than are asked for.
    pub(super) short: Option<Timestamp>,
    plan: Option<DesiredState>,
    checked: CheckedObservers,
    autoscaler: Autoscaler,
    /// What it has decided last.
    pub(super) scaling: Option<AutoscalingStatus>,
    /// When the status was written last.
    pub(super) written: Option<Instant>,
}

impl ListenerState {
    /// Returns what was decided last about the number of pods, also by an operator before this one.
    fn scaling_before(&self, listener: &ObserverListener) -> Option<AutoscalingStatus> {
        let told = || listener.status.as_ref()?.autoscaling.clone();
        self.scaling.clone().or_else(told)
    }

    /// Returns the number of pods that there should be.
    pub(super) fn replicas(&self, listener: &ObserverListener) -> i32 {
        let asked = listener.spec.replicas;
        match listener.spec.autoscaling.filter(|_| asked > 0) {
            Some(spec) => {
                let before = self.scaling_before(listener);
                bounded(before.map_or(asked, |before| before.desired_replicas), spec)
            }
            None => asked,
        }
    }
}

/// Desired state without the bundle's text; valid while its inputs stay the same.
#[derive(Clone, Debug)]
pub(super) struct DesiredState {
    inputs: u64,
    secrets: BTreeSet<ObjectRef>,
    pub(super) bundle: Result<BundleId, Rejection>,
    /// What the pods may connect to; everything where absent.
    egress: Option<Arc<DerivedEgress>>,
    observers: BTreeMap<ObjectRef, Option<ObserverEvaluation>>,
}

/// Observed and desired state at the end of a reconcile.
#[derive(Clone, Copy)]
pub(super) struct ReconcileView<'a> {
    pub(super) desired: &'a DesiredState,
    pub(super) pods: &'a [PodView],
    pub(super) evaluations: &'a BTreeMap<ObjectRef, ObserverEvaluation>,
}

impl Context {
    pub(crate) async fn reconcile_listener(
        &self,
        key: &ObjectRef,
    ) -> Result<ReconcileResult, ReconcileError> {
        let held = self.index().listener(key);
        let listener = match held {
            None => {
                self.states().remove(key);
                return Ok(self.drop_state(key));
            }
            Some(held) if held.meta().deletion_timestamp.is_some() => {
                return self.delete_listener(key, &held).await;
            }
            Some(Parsed::Invalid(invalid)) => return self.reject_unparsable(key, &invalid).await,
            Some(Parsed::Valid(listener)) => listener,
        };
        let mut state = self.states().remove(key).unwrap_or_default();
        state.deletion = DeletionState::default();
        let done = self.run_listener(key, &listener, &mut state).await;
        self.states().insert(key.clone(), state);
        done
    }

    /// Drops what the index holds on behalf of a listener.
    pub(super) fn drop_state(&self, key: &ObjectRef) -> ReconcileResult {
        let mut index = self.index();
        index.set_secret_refs(key, BTreeSet::new());
        ReconcileResult {
            action: ReconcileAction::AwaitChange,
            also_enqueue: index.set_evaluations(key, None),
        }
    }

    async fn run_listener(
        &self,
        key: &ObjectRef,
        listener: &Arc<ObserverListener>,
        state: &mut ListenerState,
    ) -> Result<ReconcileResult, ReconcileError> {
        let snapshot = self.index().snapshot(key, listener);
        let (mut desired, bundle) = self.plan(key, listener, &snapshot, state).await?;
        let mut also_enqueue = BTreeSet::new();
        let mut rejected = false;
        if let Ok(id) = &desired.bundle
            && !snapshot.terminating
        {
            also_enqueue.extend(self.ensure_finalizer(key, listener).await?);
            let egress = desired.egress.clone();
            let applied =
                self.apply_objects((key, listener), &snapshot, state, (id, bundle, egress));
            let applied = applied.await;
            if applied.is_err() {
                // What was not written is to be compiled again, as its text is not kept.
                state.plan = None;
            }
            match applied {
                Err(ReconcileError::Apply(error)) if error.rejection_reason().is_some() => {
                    rejected = true;
                    desired.bundle = Err(Rejection {
                        reason: error.rejection_reason().unwrap_or_default().to_owned(),
                        message: error.to_string(),
                    });
                }
                other => other?,
            }
        }
        let pods = self.pods.poll(snapshot.pods, &mut state.reports).await;
        // Nothing is decided that is not applied.
        let may_scale = desired.bundle.is_ok() && !snapshot.terminating;
        let scaled = may_scale && self.scale(listener, state, &pods).await;
        let evaluations = evaluations(listener, &desired, &pods);
        also_enqueue.extend(self.index().set_evaluations(key, Some(evaluations.clone())));
        let view = ReconcileView {
            desired: &desired,
            pods: &pods,
            evaluations: &evaluations,
        };
        let (action, more) = self.update_status(key, listener, view, state).await?;
        also_enqueue.extend(more);
        let action = if rejected {
            ReconcileAction::Failed
        } else if scaled {
            ReconcileAction::RequeueAfter(Duration::ZERO)
        } else {
            action
        };
        Ok(ReconcileResult {
            action,
            also_enqueue,
        })
    }

    /// Decides the number of pods, where that is the operator's. Returns whether it is another one than before.
    async fn scale(
        &self,
        listener: &ObserverListener,
        state: &mut ListenerState,
        pods: &[PodView],
    ) -> bool {
        let Some(spec) = listener
            .spec
            .autoscaling
            .filter(|_| listener.spec.replicas > 0)
        else {
            (state.autoscaler, state.scaling) = (Autoscaler::default(), None);
            return false;
        };
        let before = state.scaling_before(listener);
        let (status, why) = state.autoscaler.decide(
            spec,
            (before.as_ref(), listener.spec.replicas),
            Load::of(pods),
            now(),
        );
        let changed = why.is_some();
        if let Some(why) = why {
            let before = before.map_or(listener.spec.replicas, |one| one.desired_replicas);
            let reason = if status.desired_replicas > before {
                "ScaledOut"
            } else {
                "ScaledIn"
            };
            let events = vec![EventDraft::normal(reason, why)];
            self.publisher
                .events::<ObserverListener>(&listener.metadata, events)
                .await;
        }
        state.scaling = Some(status);
        changed
    }

    /// Computes the desired state. Returns the cached one while its inputs are the same, unless the
    /// bundle must be written again and its text is needed.
    async fn plan(
        &self,
        key: &ObjectRef,
        listener: &Arc<ObserverListener>,
        snapshot: &Snapshot,
        state: &mut ListenerState,
    ) -> Result<(DesiredState, Option<Bundle>), ReconcileError> {
        if let Some(desired) = &state.plan
            && desired.inputs == inputs(listener, snapshot, &desired.secrets, &self.index())
            && desired.bundle.as_ref().map_or(true, |id| {
                Kind::of_bundle(id.parts)
                    .all(|kind| apply::is_unchanged(kind, &state.applied, &snapshot.owned))
            })
        {
            return Ok((desired.clone(), None));
        }
        let secrets = validate::references(key, listener, snapshot);
        let inputs = {
            let mut index = self.index();
            index.set_secret_refs(key, secrets.clone());
            inputs(listener, snapshot, &secrets, &index)
        };
        let values = self
            .secrets
            .read(&self.client, &self.index, &secrets)
            .await
            .map_err(ReconcileError::Secrets)?;
        // Of thousands of observers this takes a while, in which the runtime has other work.
        let _turn = self.compiling.acquire().await;
        let compiling = tokio::task::spawn_blocking({
            let (key, listener, snapshot) = (key.clone(), Arc::clone(listener), snapshot.clone());
            let mut checked = std::mem::take(&mut state.checked);
            move || {
                let plan = validate::plan(&key, &listener, &snapshot, &values, &mut checked);
                (plan, checked)
            }
        });
        let (plan, checked) = compiling.await.map_err(ReconcileError::Compile)?;
        state.checked = checked;
        let desired = DesiredState {
            inputs,
            secrets,
            egress: plan.bundle.as_ref().ok().and_then(|one| one.egress.clone()),
            bundle: match &plan.bundle {
                Ok(bundle) => Ok(bundle.id.clone()),
                Err(rejection) => Err(rejection.clone()),
            },
            observers: plan.observers,
        };
        state.plan = Some(desired.clone());
        Ok((desired, plan.bundle.ok()))
    }

    /// Adds the finalizer where it is missing: from then on the listener cannot be deleted without a
    /// cleanup of the rows that its pods may write. Invalid listeners have no pods and get none.
    async fn ensure_finalizer(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
    ) -> Result<BTreeSet<ReconcileRequest>, ReconcileError> {
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
        self.metrics
            .object_writes
            .with_label_values(&["finalizer"])
            .inc();
        let item = CachedObject::Listener(Parsed::from(object));
        // It may have changed meanwhile.
        Ok(self.index().upsert(key.clone(), item))
    }

    async fn apply_objects(
        &self,
        (key, listener): (&ObjectRef, &ObserverListener),
        snapshot: &Snapshot,
        state: &mut ListenerState,
        (id, bundle, egress): (&BundleId, Option<Bundle>, Option<Arc<DerivedEgress>>),
    ) -> Result<(), ReconcileError> {
        let resources = ListenerResources {
            replicas: state.replicas(listener),
            egress,
            ..ListenerResources::new(listener, id.parts, &self.installation)
        };
        let mut wanted = resources.objects()?;
        if let Some(bundle) = bundle {
            wanted.extend(resources.bundle(&bundle)?);
        }
        wanted.sort_by(|a, b| match (a.kind, b.kind) {
            // The last parts first: if a quota refuses a new one, the existing parts are unchanged.
            (Kind::BundlePart(a), Kind::BundlePart(b)) => b.cmp(&a),
            (a, b) => a.cmp(&b),
        });
        let seen = &snapshot.owned;
        let is_due = |built: &&DesiredObject| {
            apply::needs_apply(built, &state.applied, seen.get(&built.kind))
        };
        let due: Vec<&DesiredObject> = wanted.iter().filter(is_due).collect();
        let (client, namespace) = (&self.client, &key.namespace);
        let uids = apply::find(client, namespace, &resources.uid, &due, seen).await?;
        for built in due {
            let kind = built.kind;
            let uid = uids.get(&kind).map(String::as_str);
            let seen = apply::apply(client, namespace, built, uid, &mut state.applied).await?;
            self.count_write(kind);
            if let Some(seen) = seen {
                self.index()
                    .record_applied(kind, &owned_key(kind, key), seen);
            }
        }
        for (kind, seen) in &snapshot.owned {
            let kind = *kind;
            let kept = Kind::of_bundle(id.parts).any(|part| part == kind)
                || wanted.iter().any(|built| built.kind == kind);
            if !kept {
                apply::delete(client, kind, &owned_key(kind, key), &seen.uid).await?;
                state.applied.remove(&kind);
                self.count_write(kind);
            }
        }
        Ok(())
    }

    pub(super) fn count_write(&self, kind: Kind) {
        let kind = kind.resource().kind;
        self.metrics.object_writes.with_label_values(&[&kind]).inc();
    }
}

fn evaluations(
    listener: &ObserverListener,
    desired: &DesiredState,
    pods: &[PodView],
) -> BTreeMap<ObjectRef, ObserverEvaluation> {
    let reports: Vec<_> = pods.iter().filter_map(|pod| pod.report.as_ref()).collect();
    let blocked = match &desired.bundle {
        Err(rejection) => Some(BlockedReason {
            reason: rejection.reason.clone(),
            message: rejection.message.clone(),
        }),
        Ok(_) if listener.spec.replicas == 0 => Some(BlockedReason {
            reason: "ScaledToZero".to_owned(),
            message: "it has no pods; set its spec.replicas to 1 or more".to_owned(),
        }),
        Ok(_) => None,
    };
    let bundle = desired.bundle.as_ref().ok().map(|id| &*id.hash);
    evaluate(&desired.observers, bundle, &reports, blocked.as_ref())
}
