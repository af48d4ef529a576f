//! Matching of events with the rules of observers.
//!
//! An event costs one lookup in an index by entity and operation, and one for each field that conditions
//! there compare with a constant; then only the rules found are evaluated: first the tenant, then the
//! condition. An event on which a condition fails is a result of its own, so that it becomes a dead letter
//! with its reason instead of passing for "no match".
//!
//! Conditions are written in a dialect of CEL: see the crate [`cel`].

pub(crate) mod condition_index;
pub(crate) mod event_view;

use std::collections::HashMap;
use std::sync::Arc;

use cel::{ErrorKind, EvaluationError};
use crds::config::Operation;

use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
pub use cel::{Condition, ConditionError, Place, Side};
use condition_index::ConditionIndex;
pub use event_view::EventView;

/// Rule that decides whether an observer sees an event.
#[derive(Debug)]
pub struct Rule {
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// Entity it watches.
    pub entity: String,
    /// Operations it watches.
    pub operations: Vec<Operation>,
    /// The only tenant whose events it sees; every event if absent.
    pub tenant: Option<String>,
    /// The condition; always true if absent.
    pub condition: Option<Condition>,
}

/// Result of a rule on an event that it does not pass over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleMatch {
    /// The rule matches the event.
    Match,
    /// The condition failed on the event.
    Failed(Failure),
}

/// Index of the rules of a listener.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    /// By entity, then by operation, the places of rules in `rules`.
    index: HashMap<String, [ConditionIndex; Operation::ALL.len()]>,
}

impl RuleSet {
    /// Indexes rules; their order is kept.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = impl Into<Arc<Rule>>>) -> Self {
        let rules: Vec<Arc<Rule>> = rules.into_iter().map(Into::into).collect();
        let mut index: HashMap<String, [ConditionIndex; Operation::ALL.len()]> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            let by_operation = index.entry(rule.entity.clone()).or_default();
            for operation in &rule.operations {
                let condition = rule.condition.as_ref().map(Condition::root);
                by_operation[*operation as usize].push(place, condition);
            }
        }
        Self { rules, index }
    }

    /// Returns the rules, in the order in which they were given.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Returns the positions in [`RuleSet::rules`] of those that watch the event's entity, operation and
    /// tenant, whatever their conditions.
    pub fn watching(&self, event: &Event) -> impl Iterator<Item = usize> {
        let places = self
            .index
            .get(&*event.entity)
            .map(|by| by[event.operation as usize].all.as_slice());
        let places = places.unwrap_or_default().iter().copied();
        places.filter(|&place| self.rules[place].sees(event))
    }

    /// Returns the positions in [`RuleSet::rules`] of those that do not pass over the event, in order, with
    /// their results.
    #[must_use]
    pub fn matches(&self, event: &Event) -> Vec<(usize, RuleMatch)> {
        let Some(by_operation) = self.index.get(&*event.entity) else {
            return Vec::new();
        };
        let view = EventView::new(event);
        by_operation[event.operation as usize]
            .candidates(&view)
            .into_iter()
            .filter_map(|place| Some((place, self.rules[place].evaluate(&view)?)))
            .collect()
    }
}

impl Rule {
    /// Returns whether it sees events of the tenant of this one.
    fn sees(&self, event: &Event) -> bool {
        self.tenant.is_none() || self.tenant == event.tenant
    }

    /// Explains why an event of its entity does not match; `None` where it does.
    ///
    /// Failures hold the names of fields and parts of the expression, but no value of a row.
    #[must_use]
    pub fn explain(&self, event: &Event) -> Option<String> {
        if !self.operations.contains(&event.operation) {
            return Some(format!("it does not watch {:?}", event.operation));
        }
        if !self.sees(event) {
            return Some("it sees another tenant's events only".to_owned());
        }
        let condition = self.condition.as_ref()?;
        let view = EventView::new(event);
        match condition.evaluate(&view) {
            Ok(true) => None,
            Ok(false) => Some(unmet(&condition.unmet(&view))),
            Err(error) => Some(evaluation_failure(error).message),
        }
    }

    /// Evaluates the rule on an event of its entity and operations. Returns nothing if it passes the event
    /// over.
    fn evaluate(&self, view: &EventView<'_>) -> Option<RuleMatch> {
        if !self.sees(view.event()) {
            return None;
        }
        match self.condition.as_ref().map(|one| one.evaluate(view)) {
            None | Some(Ok(true)) => Some(RuleMatch::Match),
            Some(Ok(false)) => None,
            Some(Err(error)) => Some(RuleMatch::Failed(evaluation_failure(error))),
        }
    }
}

/// Why an event cannot be delivered by a rule whose condition has no answer for it.
pub(crate) fn evaluation_failure(error: EvaluationError) -> Failure {
    let kind = match error.kind {
        ErrorKind::Condition => FailureKind::Condition,
        ErrorKind::Event => FailureKind::Event,
    };
    Failure::of(kind, error.message)
}

/// Joins the parts of a condition that are false.
pub(crate) fn unmet(parts: &[String]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| format!("`{part}`")).collect();
    let verb = if parts.len() == 1 { "is" } else { "are" };
    format!("{} {verb} false", parts.join(" and "))
}

#[cfg(test)]
mod tests;
