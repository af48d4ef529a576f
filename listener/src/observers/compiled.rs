//! One observer, compiled: its rule and its actions, ready to run.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{
    ActionConfig, ActionQueue, CacheConfig, Mode, ObserverConfig, OnFailure, Ordering, Priority,
    Retry,
};
use sha2::{Digest, Sha256};

use super::attempt_log::Failures;
use crate::actions::{Action, Preview};
use crate::admission::action_runtime::ActionRuntime;
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::delivery::{ActionName, Delivery};
use crate::enrich::action_cache::ActionCache;
use crate::enrich::{Enrichment, ObserverLookups};
use crate::matching::{Condition, Rule};
use crate::tracking::Needs;

/// Hashes are below this.
const MAX_HASH: u32 = 1 << 31;

/// An expression or a template that does not compile.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Observer {observer}: {path}: {message}")]
pub struct CompileProblem {
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Where in the resource, for example `spec.when`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// One action of one observer, ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// Names of observer and action.
    pub name: ActionName,
    /// What it does.
    pub action: Arc<Action>,
    /// Lookups and condition before it, where it has some.
    pub(crate) enrichment: Option<Arc<Enrichment>>,
    /// Its cache, where equal requests are not sent again.
    pub(crate) cache: Option<Arc<ActionCache>>,
    /// When to retry.
    pub retry: Retry,
    /// How its deliveries use the job queue.
    pub queue: ActionQueue,
    /// What its deliveries wait for.
    pub ordering: Ordering,
    /// Maximum number of requests of first attempts in flight, if that is not the listener's bound.
    pub max_in_flight: Option<usize>,
    /// What happens to deliveries that have failed for good.
    pub on_failure: OnFailure,
    /// The only tenant whose events its observer sees.
    pub tenant: Option<Arc<str>>,
    /// Failed attempts of it that were logged.
    pub failures: Arc<Failures>,
}

impl Compiled {
    /// Compiles an action, or returns everything in it that does not compile, each with its field. Without lookups,
    /// which is where these do not compile, nothing is said of their results.
    fn compile(
        (config, action): (&ObserverConfig, &ActionConfig),
        observer: &Arc<str>,
        lookups: Option<&ObserverLookups>,
        shared: &ActionRuntime,
    ) -> Result<Self, Vec<(String, String)>> {
        let enrichment = lookups.map(|lookups| lookups.of_action(action));
        let enrichment = enrichment.transpose().map(Option::flatten);
        let compiled = Action::compile(action, shared).and_then(|compiled| {
            let endpoint = compiled.endpoint_key();
            let cache = ActionCache::compile(action, (config.digest, endpoint), shared)?;
            Ok((compiled, cache))
        });
        let compiled = compiled.map_err(|error| (error.field_path(), error.detail()));
        let (enrichment, (compiled, cache)) = match (enrichment, compiled) {
            (Ok(enrichment), Ok(compiled)) => (enrichment, compiled),
            (enrichment, compiled) => {
                let mut problems: Vec<_> = enrichment.err().into_iter().flatten().collect();
                problems.extend(compiled.err());
                return Err(problems);
            }
        };
        Ok(Self {
            enrichment: enrichment.map(Arc::new),
            cache: cache.map(Arc::new),
            name: ActionName::new(Arc::clone(observer), action.name.as_str()),
            action: Arc::new(compiled),
            retry: action.retry,
            queue: action.queue,
            ordering: action.ordering,
            max_in_flight: action
                .max_concurrency
                .and_then(|most| usize::try_from(most).ok()),
            on_failure: config.on_failure,
            tenant: config.tenant.as_deref().map(Arc::from),
            failures: Arc::default(),
        })
    }

    /// Returns the failure of a delivery whose event its observer may not see: it is bound to another
    /// tenant, perhaps since the event was matched.
    #[must_use]
    pub fn tenant_denied(&self, event: &Event) -> Option<Failure> {
        let own = self.tenant.as_deref()?;
        (event.tenant.as_deref() != Some(own)).then(|| {
            let message = format!(
                "observer {} sees events of tenant {own} only, and this is another's: it was matched before the \
                 observer was bound to that tenant. Drop it, or redrive it once its own tenant's observer is back",
                self.name.observer
            );
            Failure::of(FailureKind::Removed, message)
        })
    }

    /// Returns whether it makes lookups before a delivery.
    #[must_use]
    pub fn has_lookups(&self) -> bool {
        let enrichment = self.enrichment.as_ref();
        enrichment.is_some_and(|enrichment| enrichment.has_lookups())
    }

    /// Makes its lookups and adds their results to a delivery. Returns the outcome of the attempt where it
    /// is not to go on: a lookup failed, or the condition of the action does not hold.
    pub async fn enrich(&self, delivery: &mut Delivery, now: DateTime<Utc>) -> Result<(), Outcome> {
        match &self.enrichment {
            Some(enrichment) => enrichment.enrich(delivery, now).await,
            None => Ok(()),
        }
    }

    /// Returns what each of its lookups asks for a delivery, by name, without secrets.
    #[must_use]
    pub fn lookup_previews(&self, delivery: &Delivery) -> Vec<(String, Result<Preview, Failure>)> {
        let enrichment = self.enrichment.as_ref();
        enrichment.map_or_else(Vec::new, |enrichment| enrichment.previews(delivery))
    }

    /// Explains why the condition of the action does not hold for a delivery with the results of its
    /// lookups; `None` where it does.
    #[must_use]
    pub fn explain(&self, delivery: &Delivery) -> Option<String> {
        self.enrichment.as_ref()?.explain(delivery)
    }

    /// Returns whether its deliveries are made at once, but not before those of the same key that wait in
    /// the job queue, so that it must be known which keys have some there.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.queue.mode == Mode::Inline && self.ordering == Ordering::Key
    }

    /// Returns the lane of an event's delivery: that of its key, or one of its own in the same shard.
    #[must_use]
    pub fn lane(&self, event: &Event, shards: u16) -> u32 {
        match self.ordering {
            Ordering::Key => event.hash,
            Ordering::None => {
                let shards = u32::from(shards.max(1));
                let own = Sha256::digest(event.log_id.to_be_bytes());
                let own = u32::from_be_bytes([own[0], own[1], own[2], own[3]]);
                event.hash % shards + shards * (own % (MAX_HASH / shards))
            }
        }
    }

    /// Returns the priority of its jobs.
    #[must_use]
    pub const fn priority(&self) -> ::queue::Priority {
        match self.queue.priority {
            Priority::High => ::queue::Priority::High,
            Priority::Normal => ::queue::Priority::Normal,
            Priority::Low => ::queue::Priority::Low,
        }
    }
}

/// An observer, ready to run.
#[derive(Debug)]
pub(crate) struct CompiledObserver {
    /// What it watches.
    pub(super) rule: Arc<Rule>,
    /// What it needs of the database.
    pub(super) needs: Vec<Needs>,
    /// Its actions, in their order.
    pub(super) targets: Vec<Arc<Compiled>>,
    /// Digest of its spec.
    pub(super) digest: [u8; 32],
    /// Whether results of its lookups or actions are kept.
    pub(super) has_cache: bool,
    /// Entities whose changes drop such results.
    pub(super) invalidated_by: Vec<Arc<str>>,
}

impl CompiledObserver {
    /// Compiles an observer, or returns everything in it that does not compile.
    pub(crate) fn compile(
        config: &ObserverConfig,
        shared: &ActionRuntime,
    ) -> Result<Self, Vec<CompileProblem>> {
        let name: Arc<str> = Arc::from(config.identity());
        let mut problems = Vec::new();
        let mut problem = |path: String, message: String| {
            problems.push(CompileProblem {
                observer: name.to_string(),
                path,
                message,
            });
        };
        let condition = match config.when.as_deref().map(Condition::compile).transpose() {
            Ok(condition) => condition,
            Err(error) => {
                for one in error.each() {
                    problem("spec.when".to_owned(), one.to_string());
                }
                None
            }
        };
        let lookups = match ObserverLookups::compile(config, shared) {
            Ok(lookups) => Some(lookups),
            Err(wrong) => {
                for (path, message) in wrong {
                    problem(path, message);
                }
                None
            }
        };
        let mut actions = Vec::with_capacity(config.actions.len());
        for (n, action) in config.actions.iter().enumerate() {
            match Compiled::compile((config, action), &name, lookups.as_ref(), shared) {
                Ok(compiled) => actions.push(Arc::new(compiled)),
                Err(wrong) => {
                    for (path, message) in wrong {
                        problem(format!("spec.actions[{n}].{path}"), message);
                    }
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let rule = Rule {
            observer: name,
            entity: config.entity.clone(),
            operations: config.operations.clone(),
            tenant: config.tenant.clone(),
            condition,
        };
        Ok(Self {
            needs: Needs::all_of(config, rule.condition.as_ref()),
            rule: Arc::new(rule),
            targets: actions,
            digest: config.digest,
            has_cache: caches(config).next().is_some(),
            invalidated_by: invalidating_entities(config).collect(),
        })
    }

    /// Returns its identity, `namespace/name`.
    pub(super) fn name(&self) -> &str {
        &self.rule.observer
    }
}

/// Returns the caches of an observer's lookups and actions.
fn caches(config: &ObserverConfig) -> impl Iterator<Item = &CacheConfig> {
    let lookups = config.enrich.iter().filter_map(|one| one.cache.as_ref());
    let actions = config.actions.iter().filter_map(|one| one.cache.as_ref());
    lookups.chain(actions)
}

fn invalidating_entities(config: &ObserverConfig) -> impl Iterator<Item = Arc<str>> {
    let changes = caches(config).flat_map(|cache| &cache.invalidate_on);
    changes.map(|change| Arc::from(change.entity.as_str()))
}
