//! The bundle of a pod: the first of the Secrets that hold it, watched, and all loaded whenever it changes.

use std::sync::Arc;

use backoff::Backoff;
use crds::config::ListenerConfig;
use crds::pod_status::PodProblem;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::cluster::api_error;
use super::config_source::{ConfigSource, FailurePolicy};
use super::job_worker::WorkerMode;
use super::plan::{BundleLoader, RuntimePlan};
use super::stored_bundle::{self, StoredBundleError};
use super::supervisor::RETRY;
use crate::coordination::membership::Coordination;
use crate::server::AppState;

/// The bundle of a listener, which the operator writes into Secrets.
pub(super) struct BundleSource {
    client: Client,
    secrets: Api<Secret>,
    /// Name of the first Secret.
    name: String,
    dedicated_worker: bool,
    watch: BoxStream<'static, watcher::Result<Option<Secret>>>,
    backoff: Backoff,
    /// When the watch is to be resumed after a failure.
    resume_at: Option<Instant>,
    /// The newest first Secret until it is loaded with all others, and when to look for those.
    unread: Option<(Option<Secret>, Instant)>,
    bundles: LoadedBundles,
}

/// Bundles that were loaded, one after the other.
#[derive(Debug, Default)]
struct LoadedBundles {
    loader: Arc<Mutex<BundleLoader>>,
    /// Hash of the newest that can be run.
    current: Option<String>,
}

impl BundleSource {
    /// Creates a source that watches the first Secret of a bundle.
    pub(super) fn new(
        client: Client,
        namespace: &str,
        name: String,
        dedicated_worker: bool,
    ) -> Self {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        Self {
            watch: watch_object(secrets.clone(), &name).boxed(),
            client,
            secrets,
            name,
            dedicated_worker,
            backoff: RETRY,
            resume_at: None,
            unread: None,
            bundles: LoadedBundles::default(),
        }
    }
}

impl BundleSource {
    /// Loads the newest bundle from all of its Secrets. If these do not belong together, that is tried again later.
    /// If the call is cancelled, the next one starts over.
    async fn load(&mut self, sources: &AppState) -> Option<RuntimePlan> {
        let (first, _) = self.unread.as_ref()?;
        let read = stored_bundle::read(&self.secrets, first.as_ref(), &self.name).await;
        let mut again = None;
        if let Err(error @ StoredBundleError::Rest(_)) = &read {
            tracing::warn!("{error}");
            again = Some(Instant::now() + self.backoff.next_delay());
        }
        // It passes, and the bundle before goes on.
        let loaded = if again.is_some() && self.bundles.current.is_some() {
            None
        } else {
            Some(self.bundles.load(read.map_err(Into::into)).await)
        };
        let (first, _) = self.unread.take()?;
        self.unread = again.map(|at| (first.clone(), at));
        self.bundles.take(first, loaded?, sources)
    }
}

impl ConfigSource for BundleSource {
    async fn next(&mut self, sources: &AppState) -> RuntimePlan {
        if self.bundles.current.is_none() {
            // Nobody needs to be told before the first answer, but there is no work to expect either.
            let unread = StoredBundleError::not_read(&self.name);
            sources.health.cannot_start(unread.into());
        }
        loop {
            // The watch resumes where it broke off; what was read before stays.
            if let Some(at) = self.resume_at {
                sleep_until(at).await;
                self.resume_at = None;
            }
            let look_at = self.unread.as_ref().map(|(_, at)| *at);
            let event = tokio::select! {
                event = self.watch.next() => event,
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                    if let Some(plan) = self.load(sources).await {
                        return plan;
                    }
                    continue;
                }
            };
            match event {
                Some(Ok(secret)) => {
                    self.backoff.reset();
                    self.unread = Some((secret, Instant::now()));
                }
                Some(Err(error)) => {
                    let problem = unreadable(&self.name, &error);
                    tracing::warn!(reason = problem.reason, "{}", problem.message);
                    if self.bundles.current.is_none() {
                        self.bundles.report(problem, sources);
                    }
                    self.resume_at = Some(Instant::now() + self.backoff.next_delay());
                }
                // This stream does not end.
                None => self.resume_at = Some(Instant::now() + self.backoff.next_delay()),
            }
        }
    }

    fn coordination(&self, plan: &RuntimePlan) -> Coordination {
        Coordination::Cluster {
            client: self.client.clone(),
            owners: plan.lease_owners.clone(),
        }
    }

    fn worker_mode(&self, listener: &ListenerConfig) -> WorkerMode {
        match (self.dedicated_worker, listener.queue.replicas) {
            (true, _) => WorkerMode::Dedicated,
            (false, 0) => WorkerMode::Embedded,
            (false, _) => WorkerMode::Disabled,
        }
    }

    fn failure_policy(&self) -> FailurePolicy {
        FailurePolicy::Retry
    }
}

impl LoadedBundles {
    /// Loads a bundle as it was read from its Secrets. Of thousands of observers this takes a while, in which the
    /// runtime has other work.
    async fn load(&self, read: Result<Vec<u8>, PodProblem>) -> Result<RuntimePlan, PodProblem> {
        let bytes = read?;
        // One that is cancelled goes on to its end, and those after it wait here, where they can be cancelled too.
        let mut loader = Arc::clone(&self.loader).lock_owned().await;
        let loading = tokio::task::spawn_blocking(move || loader.load(&bytes));
        loading.await.unwrap_or_else(|error| {
            if error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            }
            Err(PodProblem {
                reason: "BundleInvalid".to_owned(),
                message: "the process ends while the bundle is loaded".to_owned(),
            })
        })
    }

    /// Takes a bundle that was loaded. Returns its plan unless it is the one that there is already.
    fn take(
        &mut self,
        first: Option<Secret>,
        loaded: Result<RuntimePlan, PodProblem>,
        sources: &AppState,
    ) -> Option<RuntimePlan> {
        match loaded {
            Ok(plan) => {
                let plan = RuntimePlan {
                    lease_owners: owners(first),
                    ..plan
                };
                self.accept(plan, sources)
            }
            Err(problem) => {
                tracing::warn!(reason = problem.reason, "{}", problem.message);
                self.report(problem, sources);
                None
            }
        }
    }

    fn accept(&mut self, plan: RuntimePlan, sources: &AppState) -> Option<RuntimePlan> {
        let bundle = plan.bundle.clone().unwrap_or_default();
        for refused in &bundle.refused {
            let (observer, path) = (&refused.observer, &refused.path);
            tracing::warn!(observer, path, "observer rejected: {}", refused.message);
        }
        let rejected = i64::try_from(bundle.refused.len()).unwrap_or(i64::MAX);
        sources.metrics.config.rejected.set(rejected);
        let hash = bundle.hash.clone();
        sources.reporter.bundle_loaded(bundle);
        if self.current.as_ref() == Some(&hash) {
            return None;
        }
        let observers = plan.observers.len();
        tracing::info!(bundle = hash, observers, "bundle loaded");
        self.current = Some(hash);
        Some(plan)
    }

    /// Reports what is wrong with the newest bundle; without one before it, nothing can be done at all.
    fn report(&self, problem: PodProblem, sources: &AppState) {
        if self.current.is_none() {
            sources.health.cannot_start(problem.clone());
        }
        sources.metrics.config.rejected.set(1);
        sources.reporter.bundle_failed(problem);
    }
}

/// Returns the owners of the Secret, for the shards' Leases. To delay the deletion of an owner takes a
/// right of its own, so that is not copied.
fn owners(secret: Option<Secret>) -> Vec<OwnerReference> {
    let owners = secret.and_then(|secret| secret.metadata.owner_references);
    let plain = |owner| OwnerReference {
        block_owner_deletion: None,
        controller: None,
        ..owner
    };
    owners.into_iter().flatten().map(plain).collect()
}

/// Describes why the Secret cannot be read.
fn unreadable(name: &str, error: &watcher::Error) -> PodProblem {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    let why = match error {
        WatchError(status) => status.message.clone(),
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => api_error(error),
        NoResourceVersion => error.to_string(),
    };
    PodProblem {
        reason: "BundleUnreadable".to_owned(),
        message: format!("cannot read the Secret {name}: {why}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn problem_with_a_newer_bundle_leaves_the_pod_ready() {
        let now = Instant::now();
        let sources = AppState::new(Metrics::new("shop/shop").unwrap(), "shop-1");
        let mut bundles = LoadedBundles::default();
        let missing = || Err(StoredBundleError::not_read("b").into());
        let mut load = async |read| {
            let loaded = bundles.load(read).await;
            bundles.take(None, loaded, &sources)
        };
        assert!(load(missing()).await.is_none());
        assert!(sources.health.not_ready(now).is_some());
        let text = "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\n\
             metadata: {name: shop}\nspec:\n  database:\n    \
             url: {value: \"postgres://a:5432/shop\"}\n---\n\
             apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {name: big}\n\
             spec:\n  events: {entity: public.orders, operations: [Insert]}\n  \
             actions: [{name: say, log: {}}]\n";
        assert!(load(Ok(text.into())).await.is_some());
        sources.health.started();
        assert!(load(missing()).await.is_none());
        assert!(sources.health.not_ready(now).is_none());
        let told = || sources.reporter.report(&sources.metrics, None);
        assert_eq!(told().problem.unwrap().reason, "BundleMissing");
        let same = load(Ok(text.into())).await;
        assert!(same.is_none(), "it is the same");
        assert_eq!(told().problem, None);
    }
}
