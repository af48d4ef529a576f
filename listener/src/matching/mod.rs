//! Which observers an event is for.
//!
//! An event costs one look into an index by entity and operation, and one for each field that
//! conditions there ask to be something; then only the rules found are asked: first for the tenant,
//! then for the condition. An event that a condition
//! cannot judge is a verdict of its own, so that it is set aside with its reason instead of
//! passing for "no match".
//!
//! Conditions are written in CEL. The grammar is the `cel` crate's; the evaluator is our own,
//! because numbers here must keep every digit, errors must name fields and not values, and the
//! cost of an event must be bounded. Where it departs from the standard:
//!
//! | | here |
//! |---|---|
//! | numbers | one kind, decimal and exact; `7 / 2` is `3.5`; quotients have 100 digits |
//! | text that holds a number | compares with numbers as a number; other text is an error |
//! | other unlike kinds | cannot be compared: an error, unless one is `null` |
//! | `has(old.x)` | false where there is no such image |
//! | `changed(f)` | the field's value before is not that after; no row has no value |
//! | `changed_to(f, v)` | the value after is `v`, and that before is not |
//! | `changed_from(f, v)` | the value before is `v`, and that after is not |
//! | objects in braces, bytes | not offered |
//!
//! So on `Insert` a field has changed if the row has it, and on `Delete` likewise; on `Truncate`
//! and `Custom` nothing has.

pub(crate) mod cel;
mod condition;
pub(crate) mod condition_index;
pub(crate) mod event_view;

use std::collections::HashMap;
use std::sync::Arc;

use crds::config::Operation;

pub use self::condition::{Condition, ConditionError, Place};
use crate::delivery::event::Event;
use crate::delivery::failure::Failure;
use condition_index::Watchers;
pub use event_view::{EventView, Side};

/// What decides whether an observer sees an event.
#[derive(Debug)]
pub struct Rule {
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// Entity it watches.
    pub entity: String,
    /// Operations it watches.
    pub operations: Vec<Operation>,
    /// The tenant whose events alone it sees; every event where absent.
    pub tenant: Option<String>,
    /// The condition; always true where absent.
    pub condition: Option<Condition>,
}

/// What a rule says to an event that it does not pass over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The observer's actions are due.
    Match,
    /// The condition could not be judged.
    Failed(Failure),
}

/// Every rule of a listener, indexed.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// By entity, then by operation, the places of rules in `rules`.
    index: HashMap<String, [Watchers; Operation::ALL.len()]>,
}

impl RuleSet {
    /// Indexes rules; their order is kept.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut index: HashMap<String, [Watchers; Operation::ALL.len()]> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            let by_operation = index.entry(rule.entity.clone()).or_default();
            for operation in &rule.operations {
                let condition = rule.condition.as_ref().map(Condition::root);
                by_operation[*operation as usize].push(place, condition);
            }
        }
        Self { rules, index }
    }

    /// The rules, in the order in which they were given.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The places in [`RuleSet::rules`] of those that watch the event's entity, operation and
    /// tenant, whatever their conditions say.
    pub fn watching(&self, event: &Event) -> impl Iterator<Item = usize> {
        let places = self
            .index
            .get(&*event.entity)
            .map(|by| by[event.operation as usize].all.as_slice());
        let places = places.unwrap_or_default().iter().copied();
        places.filter(|&place| self.rules[place].sees(event))
    }

    /// The places in [`RuleSet::rules`] of those that do not pass over the event, in order,
    /// with what they say.
    #[must_use]
    pub fn matches(&self, event: &Event) -> Vec<(usize, Verdict)> {
        let Some(by_operation) = self.index.get(&*event.entity) else {
            return Vec::new();
        };
        let view = EventView::new(event);
        by_operation[event.operation as usize]
            .candidates(&view)
            .into_iter()
            .filter_map(|place| Some((place, self.rules[place].judge(&view)?)))
            .collect()
    }
}

impl Rule {
    /// Whether events of this one's tenant concern it.
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
        condition.explain(&EventView::new(event))
    }

    /// What the rule says to an event of its entity and operations; nothing if it passes it over.
    fn judge(&self, view: &EventView<'_>) -> Option<Verdict> {
        if !self.sees(view.event()) {
            return None;
        }
        match self.condition.as_ref().map(|one| one.evaluate(view)) {
            None | Some(Ok(true)) => Some(Verdict::Match),
            Some(Ok(false)) => None,
            Some(Err(failure)) => Some(Verdict::Failed(failure)),
        }
    }
}

#[cfg(test)]
mod tests;
