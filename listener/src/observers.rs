//! Compiled observers: the events that they match and the actions that they run.

pub(crate) mod attempt;
pub mod attempt_log;
pub(crate) mod circuit_metrics;
mod compiled;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crds::config::{ObserverConfig, Operation};
use crds::pod_status::BreakerState;
use sha2::{Digest, Sha256};

use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointStatus;
use crate::cache::{CacheNeeds, CacheStats, ResultCache};
use crate::capture::change_log::ChangeRecord;
use crate::circuit_breaker::CircuitState;
use crate::delivery::ActionName;
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::matching::{Rule, RuleMatch, RuleSet};
use crate::telemetry::lookup_metrics::LookupMetrics;
use crate::templating::template::with_parser_stack;
use crate::text::hex::hex;
use crate::tracking::Needs;
pub use circuit_metrics::describe_circuit_metrics;
pub(crate) use compiled::CompiledObserver;
pub use compiled::{CompileProblem, Compiled};

/// Number of a target, an action of an observer.
pub type Target = usize;

/// A lane: target, and hash of tenant, entity and key.
pub type LaneId = (Target, u32);

/// All observers of a listener. Its targets are numbered from 0.
#[derive(Debug)]
pub struct Observers {
    rules: RuleSet,
    /// Each with the numbers of its targets.
    compiled: Vec<(Arc<CompiledObserver>, Range<Target>)>,
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

    /// Returns the observers' names, alone and with that of each action.
    pub(crate) fn action_names(&self) -> HashSet<(&str, Option<&str>)> {
        let targets = self.targets.iter().map(|target| &target.name);
        let names = targets.flat_map(|name| {
            let observer = &*name.observer;
            [(observer, None), (observer, Some(&*name.action))]
        });
        names.collect()
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
    pub fn rules(&self) -> &[Arc<Rule>] {
        self.rules.rules()
    }

    /// Returns the observers in their order, each with its targets.
    pub(crate) fn each(&self) -> impl Iterator<Item = (&Rule, &[Arc<Compiled>])> {
        let all = self.compiled.iter();
        all.map(|(one, _)| (&*one.rule, &*one.targets))
    }

    /// Returns what each observer needs of the database.
    pub fn needs(&self) -> impl Iterator<Item = &Needs> {
        self.compiled.iter().flat_map(|(one, _)| &one.needs)
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
        let compile = || {
            let compile = |config| CompiledObserver::compile(config, shared);
            configs.iter().map(compile).collect()
        };
        // Without a thread for all of them, each template asks for its own, and says so if there is none.
        let compiled: Vec<_> = with_parser_stack(compile).unwrap_or_else(|_| compile());
        let (mut observers, mut problems) = (Vec::with_capacity(configs.len()), Vec::new());
        for one in compiled {
            match one {
                Ok(observer) => observers.push(Arc::new(observer)),
                Err(wrong) => problems.extend(wrong),
            }
        }
        (Self::new(observers, shared), problems)
    }

    /// Numbers the targets of observers, whose order is kept.
    pub(crate) fn new(compiled: Vec<Arc<CompiledObserver>>, shared: &ActionRuntime) -> Self {
        let mut targets: Vec<Arc<Compiled>> = Vec::new();
        let mut observers = Vec::with_capacity(compiled.len());
        for observer in compiled {
            let first = targets.len();
            targets.extend(observer.targets.iter().cloned());
            observers.push((observer, first..targets.len()));
        }
        let by_name = targets
            .iter()
            .enumerate()
            .map(|(n, target)| (target.name.clone(), n))
            .collect();
        let all = || observers.iter().map(|(observer, _)| observer);
        let mut by_entity: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, observer) in all().enumerate() {
            let entity = observer.rule.entity.clone();
            by_entity.entry(entity).or_default().push(n);
        }
        Self {
            rules: RuleSet::new(all().map(|one| Arc::clone(&one.rule))),
            targets,
            by_name,
            by_entity,
            digest: digest(all()),
            lookup_metrics: shared.lookups.clone(),
            results: shared.results.clone(),
            cache_needs: Arc::new(CacheNeeds {
                has_cache: all().any(|one| one.has_cache),
                entities: all().flat_map(|one| one.invalidated_by.clone()).collect(),
            }),
            compiled: observers,
        }
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
        self.compiled.iter().map(|(one, _)| one.name())
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
        let known = |n: usize| {
            let (observer, targets) = self.compiled.get(n)?;
            let is_for = only_for.is_none_or(|one| one == observer.name());
            is_for.then(|| (&observer.rule.observer, targets.clone()))
        };
        if let Some(oversized) = logged.oversized {
            let failure = Failure::of(FailureKind::Event, oversized.to_string());
            let watching = self.rules.watching(&logged.event).filter_map(known);
            for target in watching.flat_map(|(_, targets)| targets) {
                targets.failed.push((target, failure.clone()));
            }
            return (targets, matched);
        }
        for (n, rule_match) in self.rules.matches(&logged.event) {
            let Some((name, numbers)) = known(n) else {
                continue;
            };
            match rule_match {
                RuleMatch::Match => {
                    matched.push(name);
                    targets.run.extend(numbers);
                }
                RuleMatch::Failed(failure) => {
                    let failed = numbers.map(|target| (target, failure.clone()));
                    targets.failed.extend(failed);
                }
            }
        }
        (targets, matched)
    }

    /// Returns the observers that watch an event's entity and operation, with their targets.
    pub fn watching(&self, event: &Event) -> impl Iterator<Item = (&str, Vec<&Arc<Compiled>>)> {
        let watching = self.rules.watching(event);
        watching.filter_map(|n| {
            let (observer, _) = self.compiled.get(n)?;
            Some((observer.name(), observer.targets.iter().collect()))
        })
    }

    /// Returns the observers of an entity with their rules and targets, of any operation, tenant and condition.
    pub fn of_entity(
        &self,
        entity: &str,
    ) -> impl Iterator<Item = (&str, &Rule, Vec<&Arc<Compiled>>)> {
        let numbers = self.by_entity.get(entity).into_iter().flatten();
        numbers.filter_map(|n| {
            let (known, _) = self.compiled.get(*n)?;
            Some((known.name(), &*known.rule, known.targets.iter().collect()))
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
                let known = self.compiled.get(*n);
                known.is_some_and(|(known, _)| known.name() == observer)
            })
            .map(|(_, rule_match)| rule_match)
    }
}

fn digest<'o>(observers: impl Iterator<Item = &'o Arc<CompiledObserver>>) -> String {
    let mut parts: Vec<_> = observers
        .map(|one| (&*one.rule.observer, one.digest))
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
