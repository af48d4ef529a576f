//! Follows the Secret that holds the bundle, and loads what it finds.

use std::pin::pin;
use std::time::Duration;

use crds::bundle::BUNDLE_KEY;
use crds::pod_status::PodProblem;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::runtime::watcher::{Error, watch_object};
use tokio::sync::watch;

use super::error_reason::pause;
use super::plan::{Loader, Plan};
use crate::server::AppState;

/// Follows the Secret for ever. A bundle that cannot be run is told, and the one before stays.
pub(crate) async fn follow(
    secrets: Api<Secret>,
    name: &str,
    plans: watch::Sender<Option<Plan>>,
    sources: AppState,
) {
    let mut loader = Loader::default();
    let mut failures = 0;
    let mut found = pin!(watch_object(secrets, name));
    // Nobody needs to be told before the first answer, but there is no work to expect either.
    sources
        .health
        .cannot_start(missing(name, "is not read yet"));
    loop {
        match found.next().await {
            Some(Ok(secret)) => {
                failures = 0;
                match read(secret.as_ref(), name).and_then(|bytes| loader.load(bytes)) {
                    Ok(plan) => {
                        let owners = owners(secret);
                        take(Plan { owners, ..plan }, &plans, &sources);
                    }
                    Err(trouble) => {
                        tracing::warn!(reason = trouble.reason, "{}", trouble.message);
                        note_trouble(&trouble, &plans, &sources);
                    }
                }
            }
            Some(Err(error)) => {
                failures += 1;
                let trouble = unreadable(name, &error);
                tracing::warn!(reason = trouble.reason, "{}", trouble.message);
                // What was read before goes on; the watch is begun anew where it broke off.
                if plans.borrow().is_none() {
                    note_trouble(&trouble, &plans, &sources);
                }
                tokio::time::sleep(pause(failures)).await;
            }
            // The stream is one that does not end.
            None => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

/// With whom the Secret goes. To hold up an owner's deletion takes a right of its own, so that is
/// not taken over.
fn owners(secret: Option<Secret>) -> Vec<OwnerReference> {
    let owners = secret.and_then(|secret| secret.metadata.owner_references);
    let plain = |owner| OwnerReference {
        block_owner_deletion: None,
        controller: None,
        ..owner
    };
    owners.into_iter().flatten().map(plain).collect()
}

/// Hands a plan on, unless it is the one that there is.
fn take(plan: Plan, plans: &watch::Sender<Option<Plan>>, sources: &AppState) {
    sources.reporter.bundle_loaded(plan.bundle.clone());
    for refused in &plan.bundle.refused {
        let (observer, path) = (&refused.observer, &refused.path);
        tracing::warn!(observer, path, "left out: {}", refused.message);
    }
    let hash = plan.bundle.hash.clone();
    let before = plans.borrow().as_ref().map(|plan| plan.bundle.hash.clone());
    if before.as_ref() == Some(&hash) {
        return;
    }
    if before.is_some() {
        sources.metrics.config_reloads.inc();
    }
    let actions = plan.observers.len();
    tracing::info!(bundle = hash, actions, "loaded the bundle");
    plans.send_replace(Some(plan));
}

/// Says what is wrong with the newest bundle; without one before it, nothing can be done at all.
fn note_trouble(trouble: &PodProblem, plans: &watch::Sender<Option<Plan>>, sources: &AppState) {
    if plans.borrow().is_none() {
        sources.health.cannot_start(trouble.clone());
    }
    sources.reporter.bundle_failed(trouble.clone());
}

/// The bundle's bytes in its Secret.
fn read<'a>(secret: Option<&'a Secret>, name: &str) -> Result<&'a [u8], PodProblem> {
    let secret = secret.ok_or_else(|| missing(name, "is not there"))?;
    let data = secret.data.as_ref();
    data.and_then(|data| data.get(BUNDLE_KEY))
        .map(|bytes| bytes.0.as_slice())
        .ok_or_else(|| missing(name, &format!("has no key {BUNDLE_KEY}")))
}

fn missing(name: &str, what: &str) -> PodProblem {
    PodProblem {
        reason: "BundleMissing".to_owned(),
        message: format!("the Secret {name} {what}; the operator makes it"),
    }
}

/// Why the Secret cannot be read. An error of decoding would repeat what it could not decode.
fn unreadable(name: &str, error: &Error) -> PodProblem {
    let why = match error {
        Error::WatchError(status) => status.message.clone(),
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status.message.clone(),
            kube::Error::SerdeError(_) => "its content is no Secret".to_owned(),
            error => error.to_string(),
        },
        Error::NoResourceVersion => error.to_string(),
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

    #[test]
    fn the_bytes_are_under_their_key() {
        let secret = |key: &str| Secret {
            data: Some([(key.to_owned(), ByteString(b"text".to_vec()))].into()),
            ..Secret::default()
        };
        assert_eq!(read(Some(&secret(BUNDLE_KEY)), "b").unwrap(), b"text");
        for wrong in [None, Some(&secret("other")), Some(&Secret::default())] {
            assert_eq!(read(wrong, "b").unwrap_err().reason, "BundleMissing");
        }
    }

    #[test]
    fn trouble_with_a_newer_bundle_leaves_the_pod_ready() {
        let now = tokio::time::Instant::now();
        let sources = AppState::new(Metrics::new("shop/shop").unwrap(), "shop-1");
        let (plans, _) = watch::channel(None);
        note_trouble(&missing("b", "is not there"), &plans, &sources);
        assert!(sources.health.not_ready(now).is_some());
        let text = "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\n\
             metadata: {name: shop}\nspec:\n  database:\n    \
             url: {value: \"postgres://a:5432/shop\"}\n---\n\
             apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {name: big}\n\
             spec:\n  events: {entity: public.orders, operations: [Insert]}\n  \
             actions: [{name: say, log: {}}]\n";
        let plan = Loader::default().load(text.as_bytes()).unwrap();
        take(plan.clone(), &plans, &sources);
        sources.health.started();
        note_trouble(&missing("b", "is not there"), &plans, &sources);
        assert!(sources.health.not_ready(now).is_none());
        let told = || sources.reporter.report(&sources.metrics, None);
        assert_eq!(told().problem.unwrap().reason, "BundleMissing");
        take(plan, &plans, &sources);
        assert_eq!(told().problem, None);
        assert_eq!(sources.metrics.config_reloads.get(), 0, "it is the same");
    }
}
