//! Updates the status of a listener, and says by Events what turned in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::inline_secrets::inline_secrets;
use crds::v1alpha1::{ObserverListener, ObserverListenerStatus};
use tokio::time::Instant;

use super::apply;
use super::build;
use super::reconcile::{ListenerState, ReconcileView};
use super::status::{self, Rejection, StatusInput, UnownedShards, Workers};
use crate::cache::projection::{CachedObject, InvalidResource, Parsed};
use crate::events;
use crate::object_ref::{ObjectRef, ReconcileRequest};
use crate::publish::write_status;
use crate::reconcile::{Context, ReconcileError, ReconcileResult, now};
use crate::work_queue::ReconcileAction;

/// Time between two polls of the pods of a listener that has not settled.
const UNSETTLED_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two polls of the pods of one that has.
const SETTLED_POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The same where the number of pods is decided by what they report.
const SCALING_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Shortest time between two writes of the status for changed numbers alone.
const NUMBERS_INTERVAL: Duration = Duration::from_secs(10);

impl Context {
    pub(super) async fn update_status(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        view: ReconcileView<'_>,
        state: &mut ListenerState,
    ) -> Result<(ReconcileAction, BTreeSet<ReconcileRequest>), ReconcileError> {
        // What was applied or seen since the beginning counts.
        let (held, deployment, workers) = {
            let index = self.index();
            let deployments = (index.deployment(key), index.workers(key));
            (index.listener(key), deployments.0, deployments.1)
        };
        let Some(Parsed::Valid(held)) = held else {
            return Ok((ReconcileAction::AwaitChange, BTreeSet::new()));
        };
        let before = held.status.clone().unwrap_or_default();
        let bundle = &view.desired.bundle;
        let spec = &listener.spec;
        state.unowned_since.update(view.pods, spec.shards, now());
        let workers = Workers {
            wanted: build::workers(listener),
            deployment: workers.as_ref(),
            short: None,
        };
        state.short = workers.is_short().then(|| state.short.unwrap_or_else(now));
        let seen = StatusInput {
            namespace: &key.namespace,
            name: &key.name,
            generation: listener.metadata.generation.unwrap_or_default(),
            wanted: state.replicas(listener),
            autoscaling: state.scaling.as_ref(),
            shards: spec.shards,
            stalled_after: spec.stalled_after.duration(),
            unowned_since: &state.unowned_since,
            search: spec.search.is_some(),
            inline: &inline_secrets(spec),
            rejection: bundle.as_ref().err(),
            bundle: bundle.as_ref().ok().map(|id| &*id.hash),
            deployment: deployment.as_ref(),
            workers: Workers {
                short: state.short,
                ..workers
            },
            pods: view.pods,
            evaluations: view.evaluations,
        };
        let mut status = status::compute_status(seen, &before, now());
        let lately = |at: Instant| at.elapsed() < NUMBERS_INTERVAL;
        if state.written.is_some_and(lately) {
            status::carry_over_numbers(&mut status, &before);
        }
        let mut also_enqueue = BTreeSet::new();
        if status != before {
            also_enqueue = self.write_status(key, listener, &before, &status).await?;
            state.written = Some(Instant::now());
        }
        // The watches tell of all else.
        let asked = view.pods.iter().any(|pod| pod.seen.ip.is_some());
        let asked = asked || state.short.is_some();
        let is_settled = status::is_settled(&status) && state.unowned_since.is_empty();
        let action = match (asked, is_settled) {
            (false, _) => ReconcileAction::AwaitChange,
            (true, true) if state.scaling.is_some() => {
                ReconcileAction::RequeueAfter(SCALING_POLL_INTERVAL)
            }
            (true, true) => ReconcileAction::RequeueAfter(SETTLED_POLL_INTERVAL),
            (true, false) => ReconcileAction::RequeueAfter(UNSETTLED_POLL_INTERVAL),
        };
        Ok((action, also_enqueue))
    }

    async fn write_status(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        before: &ObserverListenerStatus,
        status: &ObserverListenerStatus,
    ) -> Result<BTreeSet<ReconcileRequest>, ReconcileError> {
        let meta = &listener.metadata;
        let object = match write_status::<ObserverListener>(&self.client, meta, status).await {
            Ok(object) => object,
            Err(error) if apply::is_gone(&error) => return Ok(BTreeSet::new()),
            Err(error) => return Err(ReconcileError::Status(error)),
        };
        self.metrics
            .object_writes
            .with_label_values(&["status"])
            .inc();
        let item = CachedObject::Listener(Parsed::from(object));
        // It may have changed meanwhile.
        let also_enqueue = self.index().upsert(key.clone(), item);
        let drafts = events::listener_events(&before.conditions, &status.conditions);
        self.publisher
            .events::<ObserverListener>(meta, drafts)
            .await;
        Ok(also_enqueue)
    }

    /// Reports that a listener does not parse. Its objects stay as they are.
    pub(super) async fn reject_unparsable(
        &self,
        key: &ObjectRef,
        invalid: &InvalidResource,
    ) -> Result<ReconcileResult, ReconcileError> {
        let done = self.drop_state(key);
        let rejection = Rejection {
            reason: "Invalid".to_owned(),
            message: invalid.error.clone(),
        };
        let seen = StatusInput {
            namespace: &key.namespace,
            name: &key.name,
            generation: invalid.metadata.generation.unwrap_or_default(),
            wanted: 1,
            autoscaling: None,
            shards: 0,
            stalled_after: Duration::MAX,
            unowned_since: &UnownedShards::default(),
            search: false,
            inline: &[],
            rejection: Some(&rejection),
            bundle: None,
            deployment: None,
            workers: Workers::default(),
            pods: &[],
            evaluations: &BTreeMap::new(),
        };
        let status = status::compute_status(seen, &ObserverListenerStatus::default(), now());
        write_status::<ObserverListener>(&self.client, &invalid.metadata, &status)
            .await
            .map_err(ReconcileError::Status)?;
        let drafts = events::listener_events(&[], &status.conditions);
        self.publisher
            .events::<ObserverListener>(&invalid.metadata, drafts)
            .await;
        Ok(done)
    }
}
