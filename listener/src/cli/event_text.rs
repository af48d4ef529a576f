//! Events and what became of them, as people read them.

use std::fmt::Write as _;

use ::search::DeliveryAttempt;
use chrono::{DateTime, SecondsFormat, Utc};

use super::event_view::{DeliveryView, EventView, ObserverView};
use super::output::{counted, time};
use super::table::one_line;

/// Number of milliseconds from which a duration is told in seconds.
const SECONDS_FROM_MS: u64 = 10_000;

/// Describes an event.
pub(super) fn described(event: &EventView<'_>) -> String {
    let mut text = format!(
        "{}\n{} of {} at {}",
        event.id,
        event.operation.as_str(),
        one_line(event.entity),
        event
            .occurred_at
            .to_rfc3339_opts(SecondsFormat::Micros, true)
    );
    let fields = [("key", event.key), ("tenant", event.tenant)];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(text, "\n{name}: {}", value.escape_debug());
        }
    }
    if let Some(trace) = event.trace_id {
        let _ = write!(text, "\ntrace: {}", one_line(trace));
    }
    for (name, image) in [("old", event.old), ("new", event.new)] {
        if let Some(image) = image {
            let _ = write!(text, "\n{name}: {}", one_line(image.get()));
        }
    }
    if !event.changed.is_empty() {
        let _ = write!(text, "\nchanged: {}", one_line(&event.changed.join(", ")));
    }
    text
}

/// Describes an observer, and its deliveries with their attempts.
pub(super) fn of_observer(observer: &ObserverView<'_>) -> String {
    let name = one_line(observer.observer);
    let mut text = match observer.not_matched {
        Some(why) => format!("{name}: not matched, {}", one_line(why)),
        None => format!("{name}: matched"),
    };
    for one in &observer.deliveries {
        let _ = write!(text, "\n  {}: {}", one_line(one.action), headline(one));
        if let (true, Some(error)) = (one.history.is_empty(), one.error) {
            let _ = write!(text, ": {}", one_line(error));
        }
        for attempt in &one.history {
            let _ = write!(text, "\n    {}", of_attempt(attempt));
        }
    }
    text
}

/// Describes a delivery, with its last error.
pub(super) fn of_delivery(one: &DeliveryView<'_>) -> String {
    let mut text = headline(one);
    if let Some(error) = one.error {
        let _ = write!(text, ": {}", one_line(error));
    }
    text
}

/// Describes a delivery without its attempts.
fn headline(one: &DeliveryView<'_>) -> String {
    let mut text = one.state.label().to_owned();
    if let Some(id) = one.dead_letter {
        let _ = write!(text, " {id}");
    }
    if let Some(replay) = one.replay {
        let _ = write!(text, ", replay {}", one_line(replay));
    }
    if let Some(attempts) = one.attempts.filter(|attempts| *attempts > 0) {
        let attempts = counted(attempts.into(), "attempt", "attempts");
        let _ = write!(text, ", {attempts}");
    }
    if let Some(at) = one.due_at {
        let _ = write!(text, ", due {}", time(at));
    }
    if let Some(job) = one.job {
        let _ = write!(text, ", job {}", one_line(job));
    }
    if one.details_lost {
        text.push_str(", details of its attempts are lost");
    }
    text
}

/// Describes an attempt: when it ended, how long it took, and what came of it.
fn of_attempt(attempt: &DeliveryAttempt) -> String {
    let mut text = millis(attempt.at);
    let (ended, word) = match (&attempt.error, attempt.kind.as_deref()) {
        (Some(_), _) => ("failed", "after"),
        (None, Some("cached")) => ("not sent: an equal request was delivered before", "in"),
        (None, Some("skipped")) => ("not sent: the condition of the action does not hold", "in"),
        (None, _) => ("succeeded", "in"),
    };
    let _ = write!(text, "  {ended}");
    match attempt.took_ms {
        Some(took) if took >= SECONDS_FROM_MS => {
            let _ = write!(text, " {word} {}.{} s", took / 1000, took % 1000 / 100);
        }
        Some(took) => {
            let _ = write!(text, " {word} {took} ms");
        }
        None => {}
    }
    if let Some(status) = attempt.status {
        let _ = write!(text, ", status {status}");
    }
    if let Some(error) = &attempt.error {
        let _ = write!(text, ": {}", one_line(error));
    }
    text
}

/// Formats a time with milliseconds.
fn millis(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Returns what became of an event in a few words; nothing where that is not known.
pub(super) fn summary(event: &EventView<'_>) -> String {
    let Some(observers) = &event.observers else {
        return String::new();
    };
    if observers.is_empty() {
        return "no observer watches it".to_owned();
    }
    let deliveries = observers.iter().flat_map(|one| &one.deliveries);
    let states: Vec<&str> = deliveries.map(|one| one.state.label()).collect();
    tallied(&states)
}

/// Returns states of deliveries with how often each stands there.
fn tallied(states: &[&str]) -> String {
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
