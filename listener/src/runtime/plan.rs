//! From the bytes of a bundle to what is run, and what a newer one changes.

use std::fmt::Write;
use std::sync::Arc;

use crds::bundle::BUNDLE_KEY;
use crds::config::ListenerConfig;
use crds::manifest::{Diagnostics, SourceFile};
use crds::pod_status::{ObserverError, PodProblem};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use sha2::{Digest, Sha256};

use crate::admission::action_runtime::ActionRuntimeCache;
use crate::observers::Observers;
use crate::telemetry::status::LoadedBundle;
use crate::text::hex::hex;

/// Most problems of a bundle that are told.
const MAX_TOLD: usize = 5;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The listener.
    pub(crate) listener: Arc<ListenerConfig>,
    /// Those of its observers that compile.
    pub(crate) observers: Arc<Observers>,
    /// What the operator is told.
    pub(crate) bundle: LoadedBundle,
    /// With whom the shards' Leases are to go, as the Secret does.
    pub(crate) owners: Vec<OwnerReference>,
}

/// What has to be done to go from one plan to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Other observers can take their place while all goes on.
    Observers,
    /// All must be given up and set up anew: what the shards are worked on with, how many there
    /// are, or how they are shared.
    Listener,
}

impl Plan {
    /// What it takes to go on with `next`.
    pub(crate) fn change(&self, next: &Self) -> Change {
        // The observers hold the connections by which actions go out.
        if self.listener.differs_in_egress_at_most(&next.listener) {
            Change::Observers
        } else {
            Change::Listener
        }
    }
}

/// Loads one bundle after the other, and keeps what they share.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    shared: ActionRuntimeCache,
    last: Option<Plan>,
}

impl Loader {
    /// The plan of a bundle, or why there is none. The same bytes give the same plan.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<Plan, PodProblem> {
        let hash = hex(&Sha256::digest(bytes));
        if let Some(last) = self.last.as_ref().filter(|last| last.bundle.hash == hash) {
            return Ok(last.clone());
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| invalid("it is not UTF-8 text"))?
            .to_owned();
        let file = SourceFile {
            path: BUNDLE_KEY.to_owned(),
            text,
        };
        let loaded = crds::loader::load(&[file], &|_, _| None, None).map_err(|r| told(&r))?;
        let bundle = loaded.bundle;
        let shared = self.shared.of(&bundle.listener);
        let shared = shared.map_err(|error| invalid(&error.to_string()))?;
        let (observers, problems) = Observers::compile_what_can_run(&bundle.observers, &shared);
        let refused = problems.into_iter().map(|problem| ObserverError {
            observer: problem.observer,
            path: problem.path,
            message: problem.message,
        });
        let plan = Plan {
            listener: Arc::new(bundle.listener),
            observers: Arc::new(observers),
            bundle: LoadedBundle {
                hash,
                refused: refused.collect(),
            },
            owners: Vec::new(),
        };
        self.last = Some(plan.clone());
        Ok(plan)
    }
}

fn told(report: &Diagnostics) -> PodProblem {
    let told = report.items.iter().take(MAX_TOLD);
    let told: Vec<String> = told.map(ToString::to_string).collect();
    let mut text = told.join("; ");
    let more = report.items.len().saturating_sub(MAX_TOLD);
    if more > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "; and {more} more");
    }
    invalid(&text)
}

fn invalid(what: &str) -> PodProblem {
    PodProblem {
        reason: "BundleInvalid".to_owned(),
        message: format!(
            "the bundle cannot be run, so the one before goes on if there was one: {what}"
        ),
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

    fn load(loader: &mut Loader, text: &str) -> Plan {
        loader.load(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_bundle_is_known_by_its_bytes() {
        let mut loader = Loader::default();
        let text = bundle("a", "", "new.total > 1");
        let plan = load(&mut loader, &text);
        assert_eq!(plan.bundle.hash.len(), 64);
        assert_eq!(plan.observers.len(), 1);
        let again = load(&mut loader, &text);
        assert!(Arc::ptr_eq(&plan.observers, &again.observers));
        let other = load(&mut loader, &format!("{text}\n"));
        assert_ne!(plan.bundle.hash, other.bundle.hash);
    }

    #[test]
    fn bundle_without_observers_replaces_one_with_some() {
        let mut loader = Loader::default();
        let text = bundle("a", "", "true");
        let before = load(&mut loader, &text);
        let (listener, _) = text.split_once("---\n").unwrap();
        let plan = load(&mut loader, listener);
        assert_eq!(plan.observers.len(), 0);
        assert_eq!(before.change(&plan), Change::Observers);
        let suspended = text.replace("spec:\n  events", "spec:\n  suspend: true\n  events");
        assert_ne!(suspended, text);
        assert_eq!(load(&mut loader, &suspended).observers.len(), 0);
    }

    #[test]
    fn an_observer_that_does_not_compile_is_refused_alone() {
        let plan = load(&mut Loader::default(), &bundle("a", "", "new.total >"));
        assert_eq!(plan.observers.len(), 0);
        let refused = &plan.bundle.refused[0];
        assert_eq!(
            (refused.observer.as_str(), refused.path.as_str()),
            ("shop/big", "spec.when")
        );
    }

    #[test]
    fn a_bundle_that_cannot_be_run_is_told_without_its_values() {
        let mut loader = Loader::default();
        let wrong = bundle("a", "  shards: many-secrets", "true");
        let trouble = loader.load(wrong.as_bytes()).unwrap_err();
        assert_eq!(trouble.reason, "BundleInvalid");
        assert!(trouble.message.contains("spec.shards"), "{trouble:?}");
        assert!(!trouble.message.contains("many-secrets"), "{trouble:?}");
        assert!(loader.load(&[0xff]).is_err());
    }

    #[test]
    fn only_what_must_be_is_set_up_anew() {
        let mut loader = Loader::default();
        let mut plan = |database, more, when| load(&mut loader, &bundle(database, more, when));
        let first = plan("a", "", "true");
        assert_eq!(first.change(&plan("a", "", "false")), Change::Observers);
        let egress = plan("a", "  egress: {allow: [10.0.0.0/8]}", "true");
        assert_eq!(first.change(&egress), Change::Observers);
        assert_eq!(first.change(&plan("b", "", "true")), Change::Listener);
        assert_eq!(
            first.change(&plan("a", "  shards: 3", "true")),
            Change::Listener
        );
    }
}
