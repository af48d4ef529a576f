//! Compiled observers: the events that they match and the actions that they run.

pub(crate) mod attempt;
pub mod attempt_log;
pub(crate) mod circuit_metrics;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{
    ActionQueue, CacheConfig, Mode, ObserverConfig, OnFailure, Operation, Ordering, Priority, Retry,
};
use crds::pod_status::BreakerState;
use sha2::{Digest, Sha256};

use crate::actions::{Action, Preview};
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointStatus;
use crate::cache::{CacheNeeds, CacheStats, ResultCache};
use crate::capture::change_log::ChangeRecord;
use crate::circuit_breaker::CircuitState;
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::delivery::{ActionName, Delivery};
use crate::enrich::action_cache::ActionCache;
use crate::enrich::{Enrichment, ObserverLookups};
use crate::matching::{Condition, Rule, RuleMatch, RuleSet};
use crate::telemetry::lookup_metrics::LookupMetrics;
use crate::templating::template::with_parser_stack;
use crate::text::hex::hex;
use crate::tracking::Needs;
use attempt_log::Failures;
pub use circuit_metrics::describe_circuit_metrics;

/// Number of a target, an action of an observer.
pub type Target = usize;

/// A lane: target, and hash of tenant, entity and key.
pub type LaneId = (Target, u32);

/// Hashes are below this.
const MAX_HASH: u32 = 1 << 31;

/// An expression or a template that does not compile.
#[derive(Debug, thiserror::Error)]
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

/// An observer, with the numbers of its targets.
#[derive(Debug)]
struct CompiledObserver {
    name: Arc<str>,
    needs: Vec<Needs>,
    targets: Vec<Target>,
}

/// All observers of a listener. Its targets are numbered from 0.
#[derive(Debug)]
pub struct Observers {
    rules: RuleSet,
    compiled: Vec<CompiledObserver>,
    targets: Vec<Arc<Compiled>>,
    by_name: HashMap<ActionName, Target>,
    /// The numbers of the observers of each entity, in order.
    by_entity: HashMap<String, Vec<usize>>,
    digest: String,
    lookup_metrics: LookupMetrics,
    results: ResultCache,
    cache_needs: Arc<CacheNeeds>,
}

/// Targets of one event.
#[derive(Debug, Default)]
pub struct MatchedTargets {
    /// Targets to run.
    pub run: Vec<Target>,
    /// Targets whose observer failed on the event, with the reason.
    pub failed: Vec<(Target, Failure)>,
}

impl Observers {
    /// Returns the metrics of their lookups.
    pub(crate) const fn lookup_metrics(&self) -> &LookupMetrics {
        &self.lookup_metrics
    }

    /// Returns whether there is an observer of this name, with this action if one is named.
    pub(crate) fn has(&self, observer: &str, action: Option<&str>) -> bool {
        self.targets.iter().any(|target| {
            let name = &target.name;
            *name.observer == *observer && action.is_none_or(|action| *name.action == *action)
        })
    }

    /// Removes the series of lookups and of the cache of observers for which `keep` says no.
    pub(crate) fn retain_series(&self, keep: &dyn Fn(&str, Option<&str>) -> bool) {
        self.lookup_metrics.retain(keep);
        self.results.metrics().retain(keep);
    }

    /// Returns the cache of results that they share.
    pub(crate) const fn results(&self) -> &ResultCache {
        &self.results
    }

    /// Returns what their cache holds and has served; nothing where none of them has one.
    pub(crate) fn cache_stats(&self) -> Option<CacheStats> {
        self.cache_needs.has_cache.then(|| self.results.stats())
    }

    /// Returns what their cache needs to know of changes.
    pub(crate) const fn cache_needs(&self) -> &Arc<CacheNeeds> {
        &self.cache_needs
    }

    /// Returns what the observers watch, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        self.rules.rules()
    }

    /// Returns what each observer needs of the database.
    pub fn needs(&self) -> impl Iterator<Item = &Needs> {
        self.compiled.iter().flat_map(|one| &one.needs)
    }

    /// Compiles all observers, or names everything that does not compile.
    pub fn compile(
        configs: &[ObserverConfig],
        shared: &ActionRuntime,
    ) -> Result<Self, Vec<CompileProblem>> {
        let (observers, problems) = Self::compile_what_can_run(configs, shared);
        if problems.is_empty() {
            Ok(observers)
        } else {
            Err(problems)
        }
    }

    /// Compiles the observers without those that do not compile, whose problems it returns.
    #[must_use]
    pub fn compile_what_can_run(
        configs: &[ObserverConfig],
        shared: &ActionRuntime,
    ) -> (Self, Vec<CompileProblem>) {
        let mut problems = Vec::new();
        let mut rules = Vec::with_capacity(configs.len());
        let mut observers = Vec::with_capacity(configs.len());
        let mut targets: Vec<Arc<Compiled>> = Vec::new();
        let compile = || {
            configs
                .iter()
                .map(|config| compile_one(config, shared))
                .collect()
        };
        // Without a thread for all of them, each template asks for its own, and says so if there is none.
        let compiled: Vec<_> = with_parser_stack(compile).unwrap_or_else(|_| compile());
        for (config, compiled) in configs.iter().zip(compiled) {
            match compiled {
                Ok((rule, compiled)) => {
                    let needs = Needs::all_of(config, rule.condition.as_ref());
                    let first = targets.len();
                    targets.extend(compiled.into_iter().map(Arc::new));
                    observers.push(CompiledObserver {
                        name: Arc::clone(&rule.observer),
                        needs,
                        targets: (first..targets.len()).collect(),
                    });
                    rules.push(rule);
                }
                Err(wrong) => problems.extend(wrong),
            }
        }
        let by_name = targets
            .iter()
            .enumerate()
            .map(|(n, target)| (target.name.clone(), n))
            .collect();
        let mut by_entity: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, rule) in rules.iter().enumerate() {
            by_entity.entry(rule.entity.clone()).or_default().push(n);
        }
        let observers = Self {
            rules: RuleSet::new(rules),
            compiled: observers,
            targets,
            by_name,
            by_entity,
            digest: digest(configs),
            lookup_metrics: shared.lookups.clone(),
            results: shared.results.clone(),
            cache_needs: Arc::new(CacheNeeds {
                has_cache: configs.iter().any(|one| caches(one).next().is_some()),
                entities: configs.iter().flat_map(invalidating_entities).collect(),
            }),
        };
        (observers, problems)
    }

    /// Returns the digest of the observers' specs, without order and secrets. It is the same in processes
    /// that run the same observers.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns the targets whose circuit breaker is not closed, each with its standing and the breaker's state.
    pub(crate) fn open_circuits(
        &self,
    ) -> impl Iterator<Item = (&Compiled, EndpointStatus, BreakerState)> {
        self.targets.iter().filter_map(|target| {
            let standing = target.action.endpoint_status()?;
            let state = match standing.circuit {
                CircuitState::Closed => return None,
                CircuitState::HalfOpen => BreakerState::HalfOpen,
                CircuitState::Open => BreakerState::Open,
            };
            Some((&**target, standing, state))
        })
    }

    /// Closes the circuit breakers of an observer's actions, or of one of them, or of all observers. Returns how
    /// many were not closed; actions with the same endpoint share one.
    pub(crate) fn close_circuits(&self, observer: Option<&str>, action: Option<&str>) -> usize {
        let fits = |name: &ActionName| {
            observer.is_none_or(|one| one == &*name.observer)
                && action.is_none_or(|one| one == &*name.action)
        };
        let targets = self.targets.iter().filter(|target| fits(&target.name));
        targets
            .filter(|target| target.action.close_circuit())
            .count()
    }

    /// Returns the identities of the observers, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.compiled.iter().map(|one| &*one.name)
    }

    /// Returns the entities of which observers watch what backfills read, each once.
    #[must_use]
    pub fn read_entities(&self) -> Vec<String> {
        let rules = self.rules.rules().iter();
        let reading = rules.filter(|rule| rule.operations.contains(&Operation::Read));
        let entities: BTreeSet<&String> = reading.map(|rule| &rule.entity).collect();
        entities.into_iter().cloned().collect()
    }

    /// Returns the number of targets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.targets.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Returns every target, by its number.
    #[must_use]
    pub fn targets(&self) -> &[Arc<Compiled>] {
        &self.targets
    }

    /// Returns the target of that name, if the observer still has it.
    #[must_use]
    pub fn find(&self, name: &ActionName) -> Option<Target> {
        self.by_name.get(name).copied()
    }

    /// Returns the action of that name, if the observer still has it.
    #[must_use]
    pub fn compiled(&self, name: &ActionName) -> Option<Arc<Compiled>> {
        self.targets.get(self.find(name)?).cloned()
    }

    /// Returns the targets of an event, and the observers that match it.
    #[must_use]
    pub fn match_event(&self, logged: &ChangeRecord) -> (MatchedTargets, Vec<&Arc<str>>) {
        let mut targets = MatchedTargets::default();
        let mut matched = Vec::new();
        let only_for = logged.only_for.as_deref();
        let is_for =
            |observer: &CompiledObserver| only_for.is_none_or(|one| *one == *observer.name);
        if let Some(oversized) = logged.oversized {
            let failure = Failure::of(FailureKind::Event, oversized.to_string());
            let watching = self
                .rules
                .watching(&logged.event)
                .filter_map(|n| self.compiled.get(n))
                .filter(|observer| is_for(observer));
            for target in watching.flat_map(|observer| &observer.targets) {
                targets.failed.push((*target, failure.clone()));
            }
            return (targets, matched);
        }
        for (n, rule_match) in self.rules.matches(&logged.event) {
            let Some(observer) = self.compiled.get(n).filter(|observer| is_for(observer)) else {
                continue;
            };
            match rule_match {
                RuleMatch::Match => {
                    matched.push(&observer.name);
                    targets.run.extend(&observer.targets);
                }
                RuleMatch::Failed(failure) => {
                    targets.failed.extend(
                        observer
                            .targets
                            .iter()
                            .map(|target| (*target, failure.clone())),
                    );
                }
            }
        }
        (targets, matched)
    }

    /// Returns the observers that watch an event's entity and operation, with their targets.
    pub fn watching(&self, event: &Event) -> impl Iterator<Item = (&str, Vec<&Arc<Compiled>>)> {
        let watching = self.rules.watching(event);
        watching.filter_map(|n| {
            let observer = self.compiled.get(n)?;
            let targets = observer.targets.iter();
            let targets = targets.filter_map(|target| self.targets.get(*target));
            Some((&*observer.name, targets.collect()))
        })
    }

    /// Returns the observers of an entity with their rules and targets, of any operation, tenant and condition.
    pub fn of_entity(
        &self,
        entity: &str,
    ) -> impl Iterator<Item = (&str, &Rule, Vec<&Arc<Compiled>>)> {
        let numbers = self.by_entity.get(entity).into_iter().flatten();
        numbers.filter_map(|n| {
            let (known, rule) = (self.compiled.get(*n)?, self.rules.rules().get(*n)?);
            let targets = known.targets.iter();
            let targets = targets.filter_map(|target| self.targets.get(*target));
            Some((&*known.name, rule, targets.collect()))
        })
    }

    /// Evaluates an observer's condition again on an event on which it failed before. Returns nothing if
    /// the observer does not match the event.
    #[must_use]
    pub fn decide(&self, event: &Event, observer: &str) -> Option<RuleMatch> {
        let matches = self.rules.matches(event).into_iter();
        matches
            .into_iter()
            .find(|(n, _)| {
                self.compiled
                    .get(*n)
                    .is_some_and(|one| &*one.name == observer)
            })
            .map(|(_, rule_match)| rule_match)
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

fn digest(configs: &[ObserverConfig]) -> String {
    let mut parts: Vec<_> = configs
        .iter()
        .map(|one| (one.identity(), one.digest))
        .collect();
    parts.sort_unstable();
    let mut digest = Sha256::new();
    for (identity, spec) in parts {
        digest.update(identity);
        digest.update([0]);
        digest.update(spec);
    }
    hex(&digest.finalize()[..16])
}

/// Compiles one observer, or returns everything in it that does not compile.
fn compile_one(
    config: &ObserverConfig,
    shared: &ActionRuntime,
) -> Result<(Rule, Vec<Compiled>), Vec<CompileProblem>> {
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
        let mut problem = |(path, message): (String, String)| {
            problem(format!("spec.actions[{n}].{path}"), message);
        };
        let enrichment = lookups.as_ref().map(|lookups| lookups.of_action(action));
        let enrichment = match enrichment.transpose() {
            Ok(enrichment) => enrichment.flatten(),
            Err(wrong) => {
                wrong.into_iter().for_each(&mut problem);
                None
            }
        };
        let compiled = Action::compile(action, shared).and_then(|compiled| {
            let endpoint = compiled.endpoint_key();
            let cache = ActionCache::compile(action, (config.digest, endpoint), shared)?;
            Ok((compiled, cache))
        });
        match compiled {
            Ok((compiled, cache)) => actions.push(Compiled {
                enrichment: enrichment.map(Arc::new),
                cache: cache.map(Arc::new),
                name: ActionName::new(Arc::clone(&name), action.name.as_str()),
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
            }),
            Err(error) => {
                problem((error.field_path(), error.detail()));
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
    Ok((rule, actions))
}
