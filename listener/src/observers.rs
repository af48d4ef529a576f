//! Observers, compiled: what they match and what they do.

pub(crate) mod attempt;
pub mod attempt_log;
pub(crate) mod circuit_metrics;

use std::collections::HashMap;
use std::sync::Arc;

use crds::config::{ActionQueue, Mode, ObserverConfig, OnFailure, Ordering, Priority, Retry};
use crds::pod_status::BreakerState;
use sha2::{Digest, Sha256};

use crate::actions::Action;
use crate::admission::action_runtime::Shared;
use crate::admission::circuit_breaker::Condition as BreakerCondition;
use crate::admission::endpoint_gate::Standing;
use crate::capture::change_log::Logged;
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::matching::{Condition, Rule, RuleSet, Verdict};
use crate::text::hex::hex;
use crate::tracking::Needs;
use attempt_log::Failures;

/// Number of a target.
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
    pub name: crate::delivery::ActionName,
    /// What it does.
    pub action: Arc<Action>,
    /// When to try again.
    pub retry: Retry,
    /// How it goes by the queue.
    pub queue: ActionQueue,
    /// What its deliveries wait for.
    pub ordering: Ordering,
    /// Most requests of first attempts under way at once, where that is not the listener's bound.
    pub max_in_flight: Option<usize>,
    /// What becomes of deliveries that are given up.
    pub on_failure: OnFailure,
    /// The tenant whose events alone its observer sees.
    pub tenant: Option<Arc<str>>,
    /// Failed attempts of it that the log tells of.
    pub failures: Arc<Failures>,
}

impl Compiled {
    /// Why its observer may not see an event, if that is so: it is bound to another tenant, perhaps
    /// since the event was matched.
    #[must_use]
    pub fn bars(&self, event: &Event) -> Option<Failure> {
        let own = self.tenant.as_deref()?;
        (event.tenant.as_deref() != Some(own)).then(|| {
            let message = format!(
                "observer {} sees events of tenant {own} only, and this is another's: it was matched before the \
                 observer was bound to that tenant. Drop it, or redrive it once its own tenant's observer is back",
                self.name.0
            );
            Failure::of(FailureKind::Removed, message)
        })
    }

    /// Whether its deliveries are made at once, but not before those of the same key that wait in
    /// the queue; so it must be known which keys have some there.
    #[must_use]
    pub fn tells_keys_apart(&self) -> bool {
        self.queue.mode == Mode::Inline && self.ordering == Ordering::Key
    }

    /// Which lane an event's delivery goes to: that of its key, or one of its own, which is of the
    /// same shard.
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

    /// How soon its jobs are claimed.
    #[must_use]
    pub const fn priority(&self) -> ::queue::Priority {
        match self.queue.priority {
            Priority::High => ::queue::Priority::High,
            Priority::Normal => ::queue::Priority::Normal,
            Priority::Low => ::queue::Priority::Low,
        }
    }
}

#[derive(Debug)]
struct Observer {
    name: Arc<str>,
    needs: Needs,
    targets: Vec<Target>,
}

/// All observers of a listener. Its targets are numbered from 0.
#[derive(Debug)]
pub struct Observers {
    rules: RuleSet,
    known: Vec<Observer>,
    targets: Vec<Arc<Compiled>>,
    by_name: HashMap<crate::delivery::ActionName, Target>,
    digest: String,
}

/// What one event calls for.
#[derive(Debug, Default)]
pub struct Called {
    /// Targets to run.
    pub run: Vec<Target>,
    /// Targets whose observer could not decide, with the reason.
    pub failed: Vec<(Target, Failure)>,
}

impl Observers {
    /// What the observers watch, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        self.rules.rules()
    }

    /// What each needs of the database.
    pub fn needs(&self) -> impl Iterator<Item = &Needs> {
        self.known.iter().map(|one| &one.needs)
    }

    /// Compiles all observers, or names everything that does not compile.
    pub fn compile(
        configs: &[ObserverConfig],
        shared: &Shared,
    ) -> Result<Self, Vec<CompileProblem>> {
        let (observers, problems) = Self::compile_what_can_run(configs, shared);
        if problems.is_empty() {
            Ok(observers)
        } else {
            Err(problems)
        }
    }

    /// Compiles the observers and leaves out those that do not compile, with what is wrong with
    /// them.
    #[must_use]
    pub fn compile_what_can_run(
        configs: &[ObserverConfig],
        shared: &Shared,
    ) -> (Self, Vec<CompileProblem>) {
        let mut problems = Vec::new();
        let mut rules = Vec::with_capacity(configs.len());
        let mut known = Vec::with_capacity(configs.len());
        let mut targets: Vec<Arc<Compiled>> = Vec::new();
        for config in configs {
            match compile_one(config, shared) {
                Ok((rule, compiled)) => {
                    let needs = Needs::of(config, rule.condition.as_ref());
                    let first = targets.len();
                    targets.extend(compiled.into_iter().map(Arc::new));
                    known.push(Observer {
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
        let observers = Self {
            rules: RuleSet::new(rules),
            known,
            targets,
            by_name,
            digest: digest(configs),
        };
        (observers, problems)
    }

    /// Digest of all that the observers say, whatever their order and the secrets that they name: the
    /// same in processes that do the same.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Targets whose circuit breaker is not closed, each with its standing and the breaker's state.
    pub(crate) fn open_circuits(
        &self,
    ) -> impl Iterator<Item = (&Compiled, Standing, BreakerState)> {
        self.targets.iter().filter_map(|target| {
            let standing = target.action.standing()?;
            let state = match standing.condition {
                BreakerCondition::Closed => return None,
                BreakerCondition::HalfOpen => BreakerState::HalfOpen,
                BreakerCondition::Open => BreakerState::Open,
            };
            Some((&**target, standing, state))
        })
    }

    /// Number of targets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Every target, by its number.
    #[must_use]
    pub fn targets(&self) -> &[Arc<Compiled>] {
        &self.targets
    }

    /// The target of that name, if the observer still has it.
    #[must_use]
    pub fn find(&self, name: &crate::delivery::ActionName) -> Option<Target> {
        self.by_name.get(name).copied()
    }

    /// What the action of that name does, if the observer still has it.
    #[must_use]
    pub fn compiled(&self, name: &crate::delivery::ActionName) -> Option<Arc<Compiled>> {
        self.targets.get(self.find(name)?).cloned()
    }

    /// What an event calls for, and the observers that match it.
    #[must_use]
    pub fn call(&self, logged: &Logged) -> (Called, Vec<&Arc<str>>) {
        let mut called = Called::default();
        let mut matched = Vec::new();
        if let Some(excess) = logged.excess {
            let failure = Failure::of(FailureKind::Event, excess.to_string());
            let watching = self
                .rules
                .watching(&logged.event)
                .filter_map(|n| self.known.get(n));
            for target in watching.flat_map(|observer| &observer.targets) {
                called.failed.push((*target, failure.clone()));
            }
            return (called, matched);
        }
        for (n, verdict) in self.rules.matches(&logged.event) {
            let Some(observer) = self.known.get(n) else {
                continue;
            };
            match verdict {
                Verdict::Match => {
                    matched.push(&observer.name);
                    called.run.extend(&observer.targets);
                }
                Verdict::Failed(failure) => {
                    called.failed.extend(
                        observer
                            .targets
                            .iter()
                            .map(|target| (*target, failure.clone())),
                    );
                }
            }
        }
        (called, matched)
    }

    /// The observers that watch an event's entity and operation, with their targets.
    pub fn watching(&self, event: &Event) -> impl Iterator<Item = (&str, Vec<&Arc<Compiled>>)> {
        let watching = self.rules.watching(event);
        watching.filter_map(|n| {
            let known = self.known.get(n)?;
            let targets = known.targets.iter();
            let targets = targets.filter_map(|target| self.targets.get(*target));
            Some((&*known.name, targets.collect()))
        })
    }

    /// Observers of an entity with their rules and targets, whatever their operations, tenant and condition.
    pub fn of_entity(
        &self,
        entity: &str,
    ) -> impl Iterator<Item = (&str, &Rule, Vec<&Arc<Compiled>>)> {
        let both = self.known.iter().zip(self.rules.rules());
        both.filter(move |(_, rule)| rule.entity == entity)
            .map(|(known, rule)| {
                let targets = known.targets.iter();
                let targets = targets.filter_map(|target| self.targets.get(*target));
                (&*known.name, rule, targets.collect())
            })
    }

    /// Whether an observer's condition holds now for an event on which it failed before.
    /// Nothing when it does not.
    #[must_use]
    pub fn decide(&self, event: &Event, observer: &str) -> Option<Verdict> {
        let matches = self.rules.matches(event).into_iter();
        matches
            .into_iter()
            .find(|(n, _)| {
                self.known
                    .get(*n)
                    .is_some_and(|known| &*known.name == observer)
            })
            .map(|(_, verdict)| verdict)
    }
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

/// One observer, or everything in it that does not compile.
fn compile_one(
    config: &ObserverConfig,
    shared: &Shared,
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
    let mut actions = Vec::with_capacity(config.actions.len());
    for (n, action) in config.actions.iter().enumerate() {
        match Action::compile(action, shared) {
            Ok(compiled) => actions.push(Compiled {
                name: (Arc::clone(&name), Arc::from(action.name.as_str())),
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
                let (place, message) = (error.place(), error.to_string());
                let message = message.strip_prefix(&place).unwrap_or(&message);
                problem(
                    format!("spec.actions[{n}].{place}"),
                    message.trim_start_matches([',', ' ']).to_owned(),
                );
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
