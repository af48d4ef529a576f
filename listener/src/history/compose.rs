//! Documents of events: what they hold of an event, of the observers of its entity, and of reports.

use std::borrow::Cow;
use std::fmt;

use crds::config::{DocumentContent, RedactedColumn, SearchConfig};
use search::{
    DeliveryAttempt, DeliveryEntry, DeliveryState, Document, MAX_ATTEMPTS_LISTED, ObserverEntry,
    merge_deliveries,
};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::capture::change_log::ChangeRecord;
use crate::delivery::attempt::Attempt;
use crate::delivery::delivery_id;
use crate::delivery::event::Event;
use crate::delivery::report::{DeliveryReport, Success};
use crate::observers::Observers;
use crate::text::hex::hex;

/// Maximum number of observers that a document lists without a match, the first ones.
const MAX_NOT_MATCHED: usize = 50;

/// Fields that may hold a trace id, in this order.
const TRACE_FIELDS: [&str; 3] = ["traceparent", "trace_id", "traceId"];

/// Number of hexadecimal digits of a trace id.
const TRACE_DIGITS: usize = 32;

/// What the documents of a listener hold.
#[derive(Clone, Debug)]
pub struct Composer {
    listener: String,
    content: DocumentContent,
    redact: Vec<RedactedColumn>,
}

impl Composer {
    /// Creates the composer of a listener's documents.
    #[must_use]
    pub fn new(listener: impl Into<String>, config: &SearchConfig) -> Self {
        Self {
            listener: listener.into(),
            content: config.documents,
            redact: config.redact.clone(),
        }
    }

    /// Creates the composer of a listener that keeps no history: nothing is left out.
    #[must_use]
    pub fn without_history(listener: impl Into<String>) -> Self {
        Self {
            listener: listener.into(),
            content: DocumentContent::EventsAndOutcomes,
            redact: Vec::new(),
        }
    }

    /// Returns whether documents tell what became of events.
    #[must_use]
    pub fn has_outcomes(&self) -> bool {
        self.content == DocumentContent::EventsAndOutcomes
    }

    /// Returns the document of an event, without observers.
    #[must_use]
    pub fn document(&self, event: &Event) -> Document {
        let redacted: Vec<&str> = self
            .redact
            .iter()
            .filter(|column| column.is_of(&event.entity))
            .map(|column| column.column.as_str())
            .collect();
        let image = |image: &Option<Box<RawValue>>| {
            let image = image.as_deref()?;
            without_columns(image, &redacted)
        };
        let new = image(&event.new);
        Document {
            id: event.id.clone(),
            listener: self.listener.clone(),
            log_id: event.log_id,
            entity: event.entity.to_string(),
            operation: event.operation,
            key: event.key.clone(),
            tenant: event.tenant.clone(),
            occurred_at: event.occurred_at,
            trace_id: event
                .trace
                .map(|trace| hex(&trace.trace))
                .or_else(|| new.as_deref().and_then(trace_id)),
            old: image(&event.old),
            new,
            changed: event.changed(),
            observers: Vec::new(),
        }
    }

    /// Returns the document of an event that was read, with its observers: those that match have pending
    /// deliveries, some others the reason why they do not.
    #[must_use]
    pub fn read(&self, record: &ChangeRecord, observers: &Observers) -> Document {
        let mut document = self.document(&record.event);
        if self.has_outcomes() {
            document.observers = observer_entries(record, observers);
            document.sort();
        }
        document
    }
}

/// Returns the entries of an entity's observers for an event that no delivery has been reported of.
fn observer_entries(record: &ChangeRecord, observers: &Observers) -> Vec<ObserverEntry> {
    let (event, (targets, _)) = (&record.event, observers.match_event(record));
    let failed = targets.failed.iter().map(|(target, _)| target);
    let mut entries: Vec<ObserverEntry> = Vec::new();
    for target in targets.run.iter().chain(failed) {
        let Some(compiled) = observers.targets().get(*target) else {
            continue;
        };
        let name = &compiled.name;
        let delivery = pending(event, &name.observer, &name.action);
        match entries
            .iter_mut()
            .find(|entry| *entry.observer == *name.observer)
        {
            Some(entry) => entry.deliveries.push(delivery),
            None => entries.push(ObserverEntry {
                observer: name.observer.to_string(),
                not_matched: None,
                deliveries: vec![delivery],
            }),
        }
    }
    let matched = entries.len();
    for (name, rule, _) in observers.of_entity(&event.entity) {
        if entries.len() - matched >= MAX_NOT_MATCHED {
            break;
        }
        if entries[..matched].iter().any(|one| one.observer == name) {
            continue;
        }
        if let Some(reason) = rule.explain(event) {
            entries.push(ObserverEntry {
                observer: name.to_owned(),
                not_matched: Some(reason),
                deliveries: Vec::new(),
            });
        }
    }
    entries
}

/// Returns the entry of a delivery that has not been attempted.
fn pending(event: &Event, observer: &str, action: &str) -> DeliveryEntry {
    DeliveryEntry {
        action: action.to_owned(),
        delivery: delivery_id(&event.id, observer, action),
        replay: None,
        state: DeliveryState::Pending,
        attempts: 0,
        history: Vec::new(),
        due_at: None,
        job: None,
        dead_letter: None,
        details_lost: false,
    }
}

/// Adds what a report says to the document of its event.
pub fn apply(document: &mut Document, report: &DeliveryReport) {
    let observer = &*report.name.observer;
    let entry = delivery_entry(report);
    let place = document
        .observers
        .binary_search_by(|one| one.observer.as_str().cmp(observer));
    match place {
        Ok(place) => {
            let known = &mut document.observers[place];
            known.not_matched = None;
            merge_deliveries(&mut known.deliveries, &[entry]);
        }
        Err(place) => document.observers.insert(
            place,
            ObserverEntry {
                observer: observer.to_owned(),
                not_matched: None,
                deliveries: vec![entry],
            },
        ),
    }
}

/// Returns what a report says of its delivery.
fn delivery_entry(report: &DeliveryReport) -> DeliveryEntry {
    let (event, name) = (&report.event, &report.name);
    let mut history: Vec<DeliveryAttempt> = report.failures.iter().map(failed_attempt).collect();
    if let Some(Success { at, took, unsent }) = report.success {
        history.push(DeliveryAttempt {
            at,
            took_ms: Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            status: None,
            kind: unsent.map(str::to_owned),
            error: None,
        });
    }
    history.drain(..history.len().saturating_sub(MAX_ATTEMPTS_LISTED));
    DeliveryEntry {
        replay: report.replay.as_deref().map(str::to_owned),
        state: report.state,
        attempts: report.attempts,
        history,
        due_at: report.due_at,
        job: report.job.clone(),
        ..pending(event, &name.observer, &name.action)
    }
}

/// Returns the attempts of a history as documents list them.
pub(super) fn attempts_of(history: &RawValue) -> Vec<DeliveryAttempt> {
    let attempts: Vec<Attempt> = serde_json::from_str(history.get()).unwrap_or_default();
    let surplus = attempts.len().saturating_sub(MAX_ATTEMPTS_LISTED);
    attempts[surplus..].iter().map(failed_attempt).collect()
}

/// Returns a failed attempt as documents list it.
fn failed_attempt(attempt: &Attempt) -> DeliveryAttempt {
    DeliveryAttempt {
        at: attempt.at,
        took_ms: attempt.took_ms,
        status: attempt.status,
        kind: Some(attempt.kind.clone()),
        error: Some(attempt.error.clone()),
    }
}

/// The fields of a JSON object, in order, with their values as they are written.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Returns an image without some columns; nothing where it cannot be told whether it has them.
fn without_columns(image: &RawValue, columns: &[&str]) -> Option<Box<RawValue>> {
    let is_object = image.get().trim_start().starts_with('{');
    if columns.is_empty() || !is_object {
        return Some(image.to_owned());
    }
    let Fields(fields) = serde_json::from_str(image.get()).ok()?;
    let count = fields.len();
    let kept = fields.into_iter();
    let kept: Vec<_> = kept
        .filter(|(name, _)| !columns.contains(&&**name))
        .collect();
    if kept.len() == count {
        return Some(image.to_owned());
    }
    serde_json::value::to_raw_value(&Fields(kept)).ok()
}

/// Returns the trace id that an image holds, if any.
fn trace_id(image: &RawValue) -> Option<String> {
    let text = image.get();
    // Most hold none, and need not be parsed.
    if !text.contains("trace") {
        return None;
    }
    let Fields(fields) = serde_json::from_str(text).ok()?;
    let value = |name: &str| {
        let (_, value) = fields.iter().find(|(field, _)| field == name)?;
        let text: Cow<'_, str> = serde_json::from_str(value.get()).ok()?;
        let digits = match name {
            "traceparent" => text.split('-').nth(1)?,
            _ => &*text,
        };
        let is_hex = digits.len() == TRACE_DIGITS
            && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            && digits.bytes().any(|byte| byte != b'0');
        is_hex.then(|| digits.to_ascii_lowercase())
    };
    TRACE_FIELDS.into_iter().find_map(value)
}

#[cfg(test)]
pub(in crate::history) mod tests;
