//! Events and what became of them, as people and programs read them.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::config::Operation;
use observer_listener::delivery::event::Event;
use observer_listener::history::outcome::{DeliveryOutcome, DeliveryState, ObserverOutcome};
use serde::Serialize;
use serde_json::value::RawValue;

use super::listener::EventOutcome;
use super::output::{counted, time};
use super::table::one_line;

/// An event and what became of it, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView<'a> {
    id: &'a str,
    entity: &'a str,
    operation: Operation,
    key: Option<&'a str>,
    tenant: Option<&'a str>,
    occurred_at: DateTime<Utc>,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
    changed: Vec<String>,
    #[serde(flatten)]
    outcome: Option<EventOutcome>,
}

impl<'a> EventView<'a> {
    /// Returns the view of an event.
    pub(super) fn new(event: &'a Event, outcome: Option<EventOutcome>) -> Self {
        Self {
            id: &event.id,
            entity: &event.entity,
            operation: event.operation,
            key: event.key.as_deref(),
            tenant: event.tenant.as_deref(),
            occurred_at: event.occurred_at,
            old: event.old.as_deref(),
            new: event.new.as_deref(),
            changed: event.changed(),
            outcome,
        }
    }
}

/// Describes an event for people.
pub(super) fn described(event: &Event) -> String {
    let mut text = format!(
        "{}\n{:?} of {} at {}",
        event.id,
        event.operation,
        one_line(&event.entity),
        event
            .occurred_at
            .to_rfc3339_opts(SecondsFormat::Micros, true)
    );
    let fields = [("key", &event.key), ("tenant", &event.tenant)];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(text, "\n{name}: {}", value.escape_debug());
        }
    }
    for (name, image) in [("old", &event.old), ("new", &event.new)] {
        if let Some(image) = image {
            let _ = write!(text, "\n{name}: {}", one_line(image.get()));
        }
    }
    let changed = event.changed();
    if !changed.is_empty() {
        let _ = write!(text, "\nchanged: {}", one_line(&changed.join(", ")));
    }
    text
}

/// Describes an observer and its deliveries for people.
pub(super) fn of_observer(observer: &ObserverOutcome) -> String {
    let mut text = match &observer.not_matched {
        Some(why) => format!("{}: not matched, {why}", observer.observer),
        None => format!("{}: matched", observer.observer),
    };
    for one in &observer.deliveries {
        let _ = write!(text, "\n  {}: {}", one.action, of_delivery(one));
    }
    text
}

/// Describes a delivery for people.
pub(super) fn of_delivery(one: &DeliveryOutcome) -> String {
    let mut text = one.state.as_str().to_owned();
    if let Some(id) = one.dead_letter {
        let _ = write!(text, " {id}");
    }
    if let Some(attempts) = one.attempts {
        let attempts = counted(attempts.into(), "attempt", "attempts");
        let _ = write!(text, ", {attempts}");
    }
    if let (DeliveryState::Queued, Some(at)) = (one.state, one.at) {
        let _ = write!(text, ", due {}", time(at));
    }
    if let Some(error) = &one.error {
        let _ = write!(text, ": {}", one_line(error));
    }
    text
}

/// Returns what became of an event in a few words.
pub(super) fn summary(outcome: &EventOutcome) -> String {
    if outcome.observers.is_empty() {
        return "no observer watches it".to_owned();
    }
    let deliveries = outcome.observers.iter().flat_map(|one| &one.deliveries);
    let states: Vec<&str> = deliveries.map(|one| one.state.as_str()).collect();
    tallied(&states)
}

/// Returns states of deliveries with how often each stands there.
pub(super) fn tallied(states: &[&str]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for state in states {
        match counts.iter_mut().find(|(known, _)| known == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    if counts.is_empty() {
        return "not matched".to_owned();
    }
    let part = |(state, count): (&str, usize)| match count {
        1 => state.to_owned(),
        _ => format!("{count} {state}"),
    };
    let parts: Vec<String> = counts.into_iter().map(part).collect();
    parts.join(", ")
}
