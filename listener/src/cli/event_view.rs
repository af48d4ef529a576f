//! Events and what became of them, as programs read them: of the change log, or of the history.

use ::search::{DeliveryAttempt, DeliveryEntry, Document, ObserverEntry};
use chrono::{DateTime, Utc};
use crds::config::Operation;
use observer_listener::delivery::event::Event;
use observer_listener::history::outcome::{self, DeliveryOutcome, EventProgress, ObserverOutcome};
use serde::Serialize;
use serde_json::value::RawValue;

use super::listener::EventOutcome;

/// Where an event was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum EventSource {
    ChangeLog,
    History,
}

/// An event and what became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView<'a> {
    pub(super) id: &'a str,
    pub(super) entity: &'a str,
    pub(super) operation: Operation,
    pub(super) key: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    pub(super) occurred_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<&'a str>,
    pub(super) old: Option<&'a RawValue>,
    pub(super) new: Option<&'a RawValue>,
    pub(super) changed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) read_from: Option<EventSource>,
    /// How far the listener is with it, where it was read from the change log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<EventProgress>,
    /// What the observers made of it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) observers: Option<Vec<ObserverView<'a>>>,
}

/// What an observer made of an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObserverView<'a> {
    pub(super) observer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_matched: Option<&'a str>,
    pub(super) deliveries: Vec<DeliveryView<'a>>,
}

/// A delivery.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryView<'a> {
    pub(super) action: &'a str,
    pub(super) delivery: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replay: Option<&'a str>,
    pub(super) state: StateView,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attempts: Option<u32>,
    /// Error of the last failed attempt, unless it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dead_letter: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) details_lost: bool,
    /// The latest attempts; read from the change log, only failed ones.
    pub(super) history: Vec<DeliveryAttempt>,
}

/// Where a delivery is: as the change log, the jobs and the dead letters tell, or as the history does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum StateView {
    Stored(outcome::DeliveryState),
    Document(::search::DeliveryState),
}

impl StateView {
    /// Returns the state as people read it.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Stored(state) => state.as_str(),
            Self::Document(::search::DeliveryState::DeadLetter) => "dead letter",
            Self::Document(state) => state.as_str(),
        }
    }

    const fn is_final(self) -> bool {
        match self {
            Self::Document(state) => state.is_final(),
            Self::Stored(_) => true,
        }
    }
}

impl<'a> EventView<'a> {
    /// Returns the view of an event of the change log, with what became of it where that is known.
    pub(super) fn logged(event: &'a Event, outcome: Option<&'a EventOutcome>) -> Self {
        Self {
            id: &event.id,
            entity: &event.entity,
            operation: event.operation,
            key: event.key.as_deref(),
            tenant: event.tenant.as_deref(),
            occurred_at: event.occurred_at,
            trace_id: None,
            old: event.old.as_deref(),
            new: event.new.as_deref(),
            changed: event.changed(),
            read_from: Some(EventSource::ChangeLog),
            progress: outcome.map(|outcome| outcome.progress),
            observers: outcome
                .map(|outcome| outcome.observers.iter().map(ObserverView::stored).collect()),
        }
    }

    /// Returns the view of a document; without observers where documents have none.
    pub(super) fn of_document(document: &'a Document, has_outcomes: bool) -> Self {
        let observers = || document.observers.iter().map(ObserverView::of_entry);
        Self {
            id: &document.id,
            entity: &document.entity,
            operation: document.operation,
            key: document.key.as_deref(),
            tenant: document.tenant.as_deref(),
            occurred_at: document.occurred_at,
            trace_id: document.trace_id.as_deref(),
            old: document.old.as_deref(),
            new: document.new.as_deref(),
            changed: document.changed.clone(),
            read_from: Some(EventSource::History),
            progress: None,
            observers: has_outcomes.then(|| observers().collect()),
        }
    }

    /// Takes what is stored of deliveries that are not over, which is never behind.
    pub(super) fn update(&mut self, outcome: &'a EventOutcome) {
        let unfinished = self
            .observers
            .iter_mut()
            .flatten()
            .flat_map(|one| &mut one.deliveries)
            .filter(|one| !one.state.is_final() && one.replay.is_none());
        for one in unfinished {
            let mut stored = outcome.observers.iter().flat_map(|one| &one.deliveries);
            let stored = stored.find(|stored| stored.delivery == one.delivery);
            if let Some(stored) = stored {
                let mut newer = DeliveryView::stored(stored);
                if newer.history.is_empty() {
                    newer.history = std::mem::take(&mut one.history);
                }
                newer.attempts = newer.attempts.or(one.attempts);
                *one = newer;
            }
        }
    }
}

impl<'a> ObserverView<'a> {
    fn stored(outcome: &'a ObserverOutcome) -> Self {
        Self {
            observer: &outcome.observer,
            not_matched: outcome.not_matched.as_deref(),
            deliveries: outcome
                .deliveries
                .iter()
                .map(DeliveryView::stored)
                .collect(),
        }
    }

    fn of_entry(entry: &'a ObserverEntry) -> Self {
        Self {
            observer: &entry.observer,
            not_matched: entry.not_matched.as_deref(),
            deliveries: entry
                .deliveries
                .iter()
                .map(DeliveryView::of_entry)
                .collect(),
        }
    }
}

impl<'a> DeliveryView<'a> {
    /// Returns the view of a delivery as the change log, the jobs and the dead letters tell of it.
    pub(super) fn stored(outcome: &'a DeliveryOutcome) -> Self {
        Self {
            action: &outcome.action,
            delivery: &outcome.delivery,
            replay: None,
            state: StateView::Stored(outcome.state),
            attempts: outcome.attempts,
            error: outcome.error.as_deref(),
            due_at: outcome
                .at
                .filter(|_| outcome.state == outcome::DeliveryState::Queued),
            job: outcome.is_job().then_some(outcome.delivery.as_str()),
            dead_letter: outcome.dead_letter,
            details_lost: false,
            history: outcome.failed_attempts(),
        }
    }

    fn of_entry(entry: &'a DeliveryEntry) -> Self {
        let last = entry.history.last();
        Self {
            action: &entry.action,
            delivery: &entry.delivery,
            replay: entry.replay.as_deref(),
            state: StateView::Document(entry.state),
            attempts: Some(entry.attempts),
            error: last.and_then(|last| last.error.as_deref()),
            due_at: entry.due_at,
            job: entry.job.as_deref(),
            dead_letter: entry.dead_letter,
            details_lost: entry.details_lost,
            history: entry.history.clone(),
        }
    }
}
