//! The bundle of a pod: the Secret that holds it, watched, and loaded whenever it changes.

use backoff::Backoff;
use crds::bundle::BUNDLE_KEY;
use crds::config::ListenerConfig;
use crds::pod_status::PodProblem;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until};

use super::config_source::{ConfigSource, FailurePolicy};
use super::job_worker::WorkerMode;
use super::plan::{BundleLoader, RuntimePlan};
use super::supervisor::RETRY;
use crate::coordination::membership::Coordination;
use crate::server::AppState;

/// The bundle of a listener, which the operator writes into a Secret.
pub(super) struct BundleSource {
    client: Client,
    /// Name of the Secret.
    name: String,
    dedicated_worker: bool,
    watch: BoxStream<'static, watcher::Result<Option<Secret>>>,
    backoff: Backoff,
    /// When the watch is to be resumed after a failure.
    resume_at: Option<Instant>,
    bundles: LoadedBundles,
}

/// Bundles that were loaded, one after the other.
#[derive(Debug, Default)]
struct LoadedBundles {
    loader: BundleLoader,
    /// Hash of the newest that can be run.
    current: Option<String>,
}

impl BundleSource {
    /// Creates a source that watches a Secret.
    pub(super) fn new(
        client: Client,
        namespace: &str,
        name: String,
        dedicated_worker: bool,
    ) -> Self {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        Self {
            watch: watch_object(secrets, &name).boxed(),
            client,
            name,
            dedicated_worker,
            backoff: RETRY,
            resume_at: None,
            bundles: LoadedBundles::default(),
        }
    }
}

impl ConfigSource for BundleSource {
    async fn next(&mut self, sources: &AppState) -> RuntimePlan {
        if self.bundles.current.is_none() {
            // Nobody needs to be told before the first answer, but there is no work to expect either.
            let unread = missing(&self.name, "is not read yet");
            sources.health.cannot_start(unread);
        }
        loop {
            // The watch resumes where it broke off; what was read before stays.
            if let Some(at) = self.resume_at {
                sleep_until(at).await;
                self.resume_at = None;
            }
            match self.watch.next().await {
                Some(Ok(secret)) => {
                    self.backoff.reset();
                    if let Some(plan) = self.bundles.load(secret, &self.name, sources) {
                        return plan;
                    }
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
    /// Loads the bundle of a Secret. Returns its plan unless it is the one that there is already.
    fn load(
        &mut self,
        secret: Option<Secret>,
        name: &str,
        sources: &AppState,
    ) -> Option<RuntimePlan> {
        let loaded = bundle_of(secret.as_ref(), name).and_then(|bytes| self.loader.load(bytes));
        match loaded {
            Ok(plan) => {
                let plan = RuntimePlan {
                    lease_owners: owners(secret),
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

/// Returns the bytes of the bundle in its Secret.
pub(super) fn bundle_of<'a>(
    secret: Option<&'a Secret>,
    name: &str,
) -> Result<&'a [u8], PodProblem> {
    let secret = secret.ok_or_else(|| missing(name, "is not there"))?;
    let data = secret.data.as_ref();
    data.and_then(|data| data.get(BUNDLE_KEY))
        .map(|bytes| bytes.0.as_slice())
        .ok_or_else(|| missing(name, &format!("has no key {BUNDLE_KEY}")))
}

fn missing(name: &str, what: &str) -> PodProblem {
    PodProblem {
        reason: "BundleMissing".to_owned(),
        message: format!("the Secret {name} {what}; the operator creates it"),
    }
}

/// Describes why the Secret cannot be read. An error of decoding would repeat what it could not decode.
fn unreadable(name: &str, error: &watcher::Error) -> PodProblem {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    let why = match error {
        WatchError(status) => status.message.clone(),
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => match error {
            kube::Error::Api(status) => status.message.clone(),
            kube::Error::SerdeError(_) => "its content is no Secret".to_owned(),
            error => error.to_string(),
        },
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

    use k8s_openapi::ByteString;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn secret(key: &str, text: &str) -> Secret {
        Secret {
            data: Some([(key.to_owned(), ByteString(text.into()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn bundle_is_read_under_its_key() {
        let right = secret(BUNDLE_KEY, "text");
        assert_eq!(bundle_of(Some(&right), "b").unwrap(), b"text");
        let wrong = [
            None,
            Some(&secret("other", "text")),
            Some(&Secret::default()),
        ]
        .map(|secret| bundle_of(secret, "b").unwrap_err().reason);
        assert_eq!(wrong, ["BundleMissing"; 3]);
    }

    #[test]
    fn problem_with_a_newer_bundle_leaves_the_pod_ready() {
        let now = Instant::now();
        let sources = AppState::new(Metrics::new("shop/shop").unwrap(), "shop-1");
        let mut bundles = LoadedBundles::default();
        assert!(bundles.load(None, "b", &sources).is_none());
        assert!(sources.health.not_ready(now).is_some());
        let text = "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\n\
             metadata: {name: shop}\nspec:\n  database:\n    \
             url: {value: \"postgres://a:5432/shop\"}\n---\n\
             apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {name: big}\n\
             spec:\n  events: {entity: public.orders, operations: [Insert]}\n  \
             actions: [{name: say, log: {}}]\n";
        let mut load = |secret| bundles.load(secret, "b", &sources);
        assert!(load(Some(secret(BUNDLE_KEY, text))).is_some());
        sources.health.started();
        assert!(load(None).is_none());
        assert!(sources.health.not_ready(now).is_none());
        let told = || sources.reporter.report(&sources.metrics, None);
        assert_eq!(told().problem.unwrap().reason, "BundleMissing");
        let same = load(Some(secret(BUNDLE_KEY, text)));
        assert!(same.is_none(), "it is the same");
        assert_eq!(told().problem, None);
    }
}
