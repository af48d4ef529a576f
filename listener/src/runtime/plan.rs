//! What a process runs: the plan of a configuration, and what a newer one changes.

use std::fmt::Write;
use std::sync::Arc;

use crds::config::ListenerConfig;
use crds::loader::BundleReader;
use crds::manifest::Diagnostics;
use crds::pod_status::{ObserverError, PodProblem};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::known_observers::KnownObservers;
use crate::admission::action_runtime::ActionRuntimeCache;
use crate::observers::Observers;
use crate::telemetry::status::LoadedBundle;
use crate::templating::template::with_parser_stack;

/// Maximum number of problems of a bundle that are reported.
const MAX_PROBLEMS: usize = 5;

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct RuntimePlan {
    /// The listener.
    pub listener: Arc<ListenerConfig>,
    /// Its observers that compile.
    pub observers: Arc<Observers>,
    /// The bundle that it was loaded from, as the operator knows it; none for files.
    pub(super) bundle: Option<LoadedBundle>,
    /// Owners of the shards' Leases, which are those of the bundle's Secret.
    pub(super) lease_owners: Vec<OwnerReference>,
}

/// What it takes to go from one plan to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanChange {
    /// The observers, and who may use the API, are replaced while the session goes on.
    Observers,
    /// The session is drained and another one started: the database, the number of shards, or how they
    /// are shared has changed.
    Listener,
}

impl RuntimePlan {
    /// Creates the plan of a listener that comes from no bundle.
    #[must_use]
    pub const fn new(listener: Arc<ListenerConfig>, observers: Arc<Observers>) -> Self {
        Self {
            listener,
            observers,
            bundle: None,
            lease_owners: Vec::new(),
        }
    }

    /// Returns what it takes to go on with `next`.
    pub(super) fn change_to(&self, next: &Self) -> PlanChange {
        // Connections of actions belong to the observers, and the API takes new tokens while it runs.
        if self.listener.differs_in_access_at_most(&next.listener) {
            PlanChange::Observers
        } else {
            PlanChange::Listener
        }
    }
}

/// Loads one bundle after the other, and keeps what they share.
#[derive(Debug, Default)]
pub(super) struct BundleLoader {
    shared: ActionRuntimeCache,
    observers: KnownObservers,
    /// The newest plan, by the hash of its bundle.
    last: Option<(String, RuntimePlan)>,
}

impl BundleLoader {
    /// Returns the plan of a bundle, or why it cannot be run. The same bytes give the same plan.
    pub(super) fn load(&mut self, bytes: &[u8]) -> Result<RuntimePlan, PodProblem> {
        let hash = crds::bundle::hash(bytes);
        if let Some((_, last)) = self.last.as_ref().filter(|(of, _)| *of == hash) {
            return Ok(last.clone());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8 text"))?;
        let plan = with_parser_stack(|| self.compile(text, &hash));
        let plan = plan.map_err(|error| invalid(&error.to_string()))??;
        self.last = Some((hash, plan.clone()));
        Ok(plan)
    }

    fn compile(&mut self, text: &str, hash: &str) -> Result<RuntimePlan, PodProblem> {
        let reader = BundleReader::open(text).map_err(|report| listed(&report))?;
        // A bundle that cannot be run changes nothing.
        let mut cache = self.shared.clone();
        let shared = cache.of(reader.listener());
        let shared = shared.map_err(|error| invalid(&error.to_string()))?;
        let loaded = self.observers.load(reader, &shared);
        let loaded = loaded.map_err(|report| listed(&report))?;
        self.shared = cache;
        let refused = loaded.problems.into_iter().map(|problem| ObserverError {
            observer: problem.observer,
            path: problem.path,
            message: problem.message,
        });
        let observers = Observers::new(loaded.observers, &shared);
        Ok(RuntimePlan {
            bundle: Some(LoadedBundle {
                hash: hash.to_owned(),
                refused: refused.collect(),
            }),
            ..RuntimePlan::new(Arc::new(loaded.listener), Arc::new(observers))
        })
    }
}

/// Lists the problems of a bundle, up to [`MAX_PROBLEMS`].
fn listed(report: &Diagnostics) -> PodProblem {
    let shown = report.items.iter().take(MAX_PROBLEMS);
    let shown: Vec<String> = shown.map(ToString::to_string).collect();
    let mut text = shown.join("; ");
    let more = report.items.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "; and {more} more");
    }
    invalid(&text)
}

fn invalid(what: &str) -> PodProblem {
    PodProblem {
        reason: "BundleInvalid".to_owned(),
        message: format!("the bundle is invalid, so the one before stays if there was one: {what}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn bundle(database: &str, more: &str, when: &str) -> String {
        format!(
            "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\n\
             metadata: {{name: shop, namespace: shop}}\nspec:\n  database:\n    \
             url: {{value: \"postgres://{database}:5432/shop\"}}\n{more}\n---\n\
             apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\n\
             metadata: {{name: big, namespace: shop}}\nspec:\n  \
             events: {{entity: public.orders, operations: [Insert]}}\n  when: \"{when}\"\n  \
             actions:\n    - name: say\n      log: {{}}\n"
        )
    }

    fn load(loader: &mut BundleLoader, text: &str) -> RuntimePlan {
        loader.load(text.as_bytes()).unwrap()
    }

    fn hash(plan: &RuntimePlan) -> &str {
        &plan.bundle.as_ref().unwrap().hash
    }

    #[test]
    fn bundle_is_identified_by_its_bytes() {
        let mut loader = BundleLoader::default();
        let text = bundle("a", "", "new.total > 1");
        let plan = load(&mut loader, &text);
        assert_eq!(hash(&plan).len(), 64);
        assert_eq!(plan.observers.len(), 1);
        let again = load(&mut loader, &text);
        assert!(Arc::ptr_eq(&plan.observers, &again.observers));
        let other = load(&mut loader, &format!("{text}\n"));
        assert_ne!(hash(&plan), hash(&other));
    }

    #[test]
    fn bundle_without_observers_replaces_one_with_some() {
        let mut loader = BundleLoader::default();
        let text = bundle("a", "", "true");
        let before = load(&mut loader, &text);
        let (listener, _) = text.split_once("---\n").unwrap();
        let plan = load(&mut loader, listener);
        assert_eq!(plan.observers.len(), 0);
        assert_eq!(before.change_to(&plan), PlanChange::Observers);
        let suspended = text.replace("spec:\n  events", "spec:\n  suspend: true\n  events");
        assert_ne!(suspended, text);
        assert_eq!(load(&mut loader, &suspended).observers.len(), 0);
    }

    #[test]
    fn observer_that_does_not_compile_is_rejected_alone() {
        let plan = load(
            &mut BundleLoader::default(),
            &bundle("a", "", "new.total >"),
        );
        assert_eq!(plan.observers.len(), 0);
        let refused = &plan.bundle.as_ref().unwrap().refused[0];
        assert_eq!(
            (refused.observer.as_str(), refused.path.as_str()),
            ("shop/big", "spec.when")
        );
    }

    #[test]
    fn invalid_bundle_is_reported_without_its_values() {
        let mut loader = BundleLoader::default();
        let wrong = bundle("a", "  shards: many-secrets", "true");
        let problem = loader.load(wrong.as_bytes()).unwrap_err();
        assert_eq!(problem.reason, "BundleInvalid");
        assert!(problem.message.contains("spec.shards"), "{problem:?}");
        assert!(!problem.message.contains("many-secrets"), "{problem:?}");
        assert!(loader.load(&[0xff]).is_err());
    }

    #[test]
    fn only_a_changed_listener_needs_a_restart() {
        let mut loader = BundleLoader::default();
        let mut plan = |database, more, when| load(&mut loader, &bundle(database, more, when));
        let first = plan("a", "", "true");
        assert_eq!(
            first.change_to(&plan("a", "", "false")),
            PlanChange::Observers
        );
        let egress = plan("a", "  egress: {allow: [10.0.0.0/8]}", "true");
        assert_eq!(first.change_to(&egress), PlanChange::Observers);
        let api = |token: &str| {
            format!("  api: {{tokens: [{{name: a, token: {{value: {token}}}, role: Read}}]}}")
        };
        let first_token = api("a-token-of-many-letters");
        let second_token = api("another-of-many-letters");
        let with_api = plan("a", &first_token, "true");
        assert_eq!(first.change_to(&with_api), PlanChange::Listener);
        let rotated = plan("a", &second_token, "true");
        assert_eq!(with_api.change_to(&rotated), PlanChange::Observers);
        assert_eq!(
            first.change_to(&plan("b", "", "true")),
            PlanChange::Listener
        );
        assert_eq!(
            first.change_to(&plan("a", "  shards: 3", "true")),
            PlanChange::Listener
        );
    }
}
