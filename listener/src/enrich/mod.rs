//! Lookups before the actions of an observer, and the conditions of actions over their results.
//!
//! A delivery makes the lookups that its action uses, in stages: those of a stage are made at once, and
//! use only results of stages before it. A lookup that fails decides the attempt before the action is
//! tried, unless its `onError` says otherwise.

pub(crate) mod action_cache;
mod cache_policy;
mod http;
mod lookup;
mod postgres;
mod usage;

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{ActionConfig, ObserverConfig};
use futures::future::join_all;
use serde_json::value::RawValue;

use self::lookup::{Lookup, LookupResult};
use self::usage::{Lookups, names_in};
use crate::actions::{self, Preview};
use crate::admission::action_runtime::ActionRuntime;
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::matching::{Condition, EventView, evaluation_failure, unmet};

/// Most bytes of the results of one delivery.
const MAX_RESULTS: usize = 512 << 10;

/// What is wrong in lookups: a path within the observer's spec, and a message.
pub(crate) type EnrichProblem = (String, String);

/// Compiled lookups of an observer.
pub(crate) struct ObserverLookups {
    all: Vec<Arc<Lookup>>,
    /// The lookups before it whose results each uses, directly or not.
    needs: Vec<Lookups>,
    names: Vec<String>,
}

impl ObserverLookups {
    /// Compiles the lookups of an observer, or returns everything in them that does not compile.
    pub(crate) fn compile(
        config: &ObserverConfig,
        runtime: &ActionRuntime,
    ) -> Result<Self, Vec<EnrichProblem>> {
        let names: Vec<String> = config.enrich.iter().map(|one| one.name.clone()).collect();
        let mut problems = Vec::new();
        let mut all = Vec::with_capacity(names.len());
        let mut needs: Vec<Lookups> = Vec::with_capacity(names.len());
        for (n, one) in config.enrich.iter().enumerate() {
            let at = |field: &str| format!("spec.enrich[{n}].{field}");
            let mut own = Lookups::default();
            for template in lookup::templates(one) {
                match names_in(template.source, &names[..n]) {
                    Ok(used) => own = own.and(used),
                    Err(message) => problems.push((at(&template.field), message)),
                }
            }
            let before = own.iter().filter_map(|used| needs.get(used).copied());
            needs.push(before.fold(own, Lookups::and));
            match Lookup::compile(one, config.digest, runtime) {
                Ok(compiled) => all.push(Arc::new(compiled)),
                Err(error) => problems.push((at(&error.field_path()), error.detail())),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { all, needs, names })
    }

    /// Returns the lookups and the condition of one action, or everything in them that does not compile,
    /// with paths within the action; nothing where it has none.
    pub(crate) fn of_action(
        &self,
        action: &ActionConfig,
    ) -> Result<Option<Enrichment>, Vec<EnrichProblem>> {
        let mut problems = Vec::new();
        let mut used = Lookups::default();
        let by_cache = action.cache.iter().flat_map(cache_policy::templates);
        for template in actions::templates(&action.kind).into_iter().chain(by_cache) {
            match names_in(template.source, &self.names) {
                Ok(names) => used = used.and(names),
                Err(message) => problems.push((template.field, message)),
            }
        }
        let compile = |text: &str| Condition::compile_with_lookups(text, self.names.clone());
        let when = match action.when.as_deref().map(compile).transpose() {
            Ok(when) => when,
            Err(error) => {
                let each = error.each().iter();
                problems.extend(each.map(|one| ("when".to_owned(), one.to_string())));
                None
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let by_condition = when.iter().flat_map(Condition::lookups);
        let by_condition = by_condition
            .filter_map(|name| self.names.iter().position(|known| known == name))
            .fold(Lookups::default(), Lookups::with);
        if used.is_empty() && when.is_none() {
            return Ok(None);
        }
        let first = self.with_needed(by_condition);
        Ok(Some(Enrichment {
            first: self.stages(first, Lookups::default()),
            when,
            others: self.stages(self.with_needed(used), first),
        }))
    }

    /// Returns these lookups with all that they need.
    fn with_needed(&self, used: Lookups) -> Lookups {
        let needed = used.iter().filter_map(|one| self.needs.get(one).copied());
        needed.fold(used, Lookups::and)
    }

    /// Returns lookups in the stages in which they are made, after some that are made before.
    fn stages(&self, needed: Lookups, made: Lookups) -> Vec<Vec<Arc<Lookup>>> {
        let mut stages: Vec<Vec<Arc<Lookup>>> = Vec::new();
        let mut stage_of = vec![0; self.all.len()];
        for (n, lookup) in self.all.iter().enumerate() {
            if !needed.contains(n) || made.contains(n) {
                continue;
            }
            let before = self.needs.get(n).copied().unwrap_or_default();
            let stage = before
                .iter()
                .filter(|one| !made.contains(*one))
                .map(|one| stage_of[one] + 1)
                .max()
                .unwrap_or(0);
            stage_of[n] = stage;
            if stages.len() <= stage {
                stages.resize_with(stage + 1, Vec::new);
            }
            stages[stage].push(Arc::clone(lookup));
        }
        stages
    }
}

/// Lookups and condition of one action.
pub(crate) struct Enrichment {
    /// Stages of what the condition needs.
    first: Vec<Vec<Arc<Lookup>>>,
    when: Option<Condition>,
    /// Stages of what only the action needs.
    others: Vec<Vec<Arc<Lookup>>>,
}

impl std::fmt::Debug for Enrichment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.lookups().map(|lookup| lookup.name()).collect();
        write!(f, "Enrichment({})", names.join(", "))
    }
}

impl Enrichment {
    /// Makes the lookups and adds their results to a delivery, first those of the condition. Returns the
    /// outcome of the attempt where it is not to go on: a lookup failed, or the condition does not hold.
    pub(crate) async fn enrich(
        &self,
        delivery: &mut Delivery,
        now: DateTime<Utc>,
    ) -> Result<(), Outcome> {
        let mut results = Results::default();
        make(&self.first, &mut results, delivery, now).await?;
        match self.holds(delivery) {
            Ok(true) => make(&self.others, &mut results, delivery, now).await,
            Ok(false) => Err(Outcome::Skipped),
            Err(failure) => Err(Outcome::Rejected(failure)),
        }
    }

    /// Explains why the condition does not hold for a delivery with results; `None` where it does.
    pub(crate) fn explain(&self, delivery: &Delivery) -> Option<String> {
        let results = delivery.enrich.as_deref().map(RawValue::get);
        let view = EventView::with_lookups(&delivery.event, results);
        Some(unmet(&self.when.as_ref()?.unmet(&view)))
    }

    fn holds(&self, delivery: &Delivery) -> Result<bool, Failure> {
        let Some(when) = &self.when else {
            return Ok(true);
        };
        let results = delivery.enrich.as_deref().map(RawValue::get);
        let view = EventView::with_lookups(&delivery.event, results);
        when.evaluate(&view).map_err(evaluation_failure)
    }

    /// Returns what each lookup would ask for a delivery, by its name. Lookups that use the results of
    /// others cannot be shown without making those.
    pub(crate) fn previews(&self, delivery: &Delivery) -> Vec<(String, Result<Preview, Failure>)> {
        let lookups = self.lookups();
        lookups
            .map(|lookup| (lookup.name().to_owned(), lookup.preview(delivery)))
            .collect()
    }

    /// Returns whether there are lookups.
    pub(crate) const fn has_lookups(&self) -> bool {
        !self.first.is_empty() || !self.others.is_empty()
    }

    fn lookups(&self) -> impl Iterator<Item = &Arc<Lookup>> {
        self.first.iter().chain(&self.others).flatten()
    }
}

/// Makes lookups stage by stage, and adds their results to a delivery.
async fn make(
    stages: &[Vec<Arc<Lookup>>],
    results: &mut Results,
    delivery: &mut Delivery,
    now: DateTime<Utc>,
) -> Result<(), Outcome> {
    for stage in stages {
        let made = stage.iter().map(|lookup| lookup.run(delivery, now));
        let made = join_all(made).await;
        for (lookup, result) in stage.iter().zip(made) {
            results.add(lookup.name(), &result?);
        }
        if results.json.len() > MAX_RESULTS {
            return Err(Outcome::Rejected(results.too_large()));
        }
        delivery.enrich = Some(results.object());
    }
    Ok(())
}

/// Results so far, as the members of a JSON object.
#[derive(Default)]
struct Results {
    json: String,
}

impl Results {
    /// Adds a result. The name is an identifier, which needs no escape.
    fn add(&mut self, name: &str, result: &LookupResult) {
        let comma = if self.json.is_empty() { "" } else { "," };
        let result = result.as_deref().map_or("null", RawValue::get);
        // Writing to a string cannot fail.
        let _ = write!(self.json, "{comma}\"{name}\":{result}");
    }

    fn object(&self) -> Arc<RawValue> {
        let object = RawValue::from_string(format!("{{{}}}", self.json));
        Arc::from(object.unwrap_or_default())
    }

    fn too_large(&self) -> Failure {
        let message = format!(
            "the results of the lookups have {} KiB, and {} KiB are allowed: let them return only what is used",
            self.json.len() >> 10,
            MAX_RESULTS >> 10
        );
        Failure::of(FailureKind::Lookup, message)
    }
}
