//! Domain types of a delivery, which all rooms share.

pub mod attempt;
pub(crate) mod entity;
pub mod event;
pub mod failure;
pub(crate) mod formats;
pub mod outcome;
pub mod report;
pub mod retry_policy;

use std::sync::Arc;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use self::event::Event;
use crate::text::hex::hex;
use crate::trace::context::{TraceContext, derived_span, trace_of};
use crate::trace::spans::AttemptTrace;

/// Names an action of an observer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionName {
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
}

impl ActionName {
    /// Names an action of an observer (`namespace/name`).
    pub fn new(observer: impl Into<Arc<str>>, action: impl Into<Arc<str>>) -> Self {
        Self {
            observer: observer.into(),
            action: action.into(),
        }
    }
}

impl From<&::queue::Lane> for ActionName {
    fn from(lane: &::queue::Lane) -> Self {
        Self::new(Arc::clone(&lane.observer), Arc::clone(&lane.action))
    }
}

/// Returns the permanent id of a delivery (`webhook-id`): the event's id, a dot, and 16 hexadecimal
/// digits that identify the observer (`namespace/name`) and its action.
#[must_use]
pub fn delivery_id(event_id: &str, observer: &str, action: &str) -> String {
    let digest = Sha256::digest(format!("{observer}\n{action}"));
    format!("{event_id}.{}", hex(&digest[..8]))
}

/// An attempt to deliver one event by one action of an observer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The replay that it is part of; `None` for a first delivery.
    pub replay: Option<Arc<str>>,
    /// Results of the lookups that its action uses, a JSON object; `None` where it uses none.
    pub enrich: Option<Arc<RawValue>>,
    /// What is known of its trace.
    pub trace: AttemptTrace,
}

impl Delivery {
    /// Returns its permanent id; see [`delivery_id`].
    #[must_use]
    pub fn id(&self) -> String {
        delivery_id(&self.event.id, &self.observer, &self.action)
    }

    /// Returns the trace context for its receiver, where one was given or the trace is recorded. What records
    /// nothing passes on what it was given.
    #[must_use]
    pub fn given_trace(&self) -> Option<TraceContext> {
        match &self.trace {
            AttemptTrace::Recorded(span) => Some(span.context()),
            AttemptTrace::Dropped | AttemptTrace::Off => self.event.trace,
        }
    }

    /// Returns the trace context for a receiver that is always given one: one trace for each event, one span
    /// for each attempt. `id` is the delivery's.
    #[must_use]
    pub fn trace_context(&self, id: &str) -> TraceContext {
        self.given_trace().unwrap_or_else(|| {
            let span = derived_span(&format!("{id}\n{}", self.attempt));
            let is_sampled = matches!(self.trace, AttemptTrace::Off);
            TraceContext::new(trace_of(&self.event.id, None), span, is_sampled)
        })
    }

    /// Returns the id under which it takes effect once; a replay has another one.
    #[must_use]
    pub fn effect_id(&self) -> String {
        match &self.replay {
            Some(replay) => format!("{}~{replay}", self.id()),
            None => self.id(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::delivery_id;

    #[test]
    fn delivery_id_is_stable_and_unique() {
        let id = delivery_id("a1b2-42", "default/big-orders", "notify");
        assert_eq!(id, "a1b2-42.f910b3a3ad0d74fe");
        assert_ne!(id, delivery_id("a1b2-42", "default/big-orders", "mail"));
        assert_ne!(id, delivery_id("a1b2-42", "shop/big-orders", "notify"));
        assert_ne!(id, delivery_id("a1b2-43", "default/big-orders", "notify"));
    }
}
