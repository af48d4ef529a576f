//! Encoding of deliveries as jobs.

use crate::delivery::ActionName;
use std::sync::Arc;

use ::queue::{Job, Lane, NewJob, Priority};
use chrono::{DateTime, Utc};
use crds::config::Operation;
use search::DeliveryState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::delivery::attempt::Attempt;
use crate::delivery::delivery_id;
use crate::delivery::event::Event;
use crate::delivery::report::DeliveryReport;
use crate::observers::LaneId;
use crate::trace::context::TraceContext;

/// Delivery to be added to the queue.
#[derive(Clone, Debug)]
pub struct PendingJob {
    /// The event.
    pub event: Arc<Event>,
    /// Names of observer and action.
    pub name: ActionName,
    /// Suffix that distinguishes it from earlier jobs of the same delivery, if any: a queue skips jobs
    /// that it has seen before.
    pub again: Option<String>,
    /// Whether it is a replay, which counts as a later job of its delivery.
    pub replay: bool,
    /// Lane of the dispatcher, if it tracks it.
    pub lane: Option<LaneId>,
    /// Hash of the lane in the queue.
    pub key: u32,
    /// Priority.
    pub priority: Priority,
    /// Number of attempts.
    pub attempts: u32,
    /// Latest attempts, the last one last.
    pub history: Vec<Attempt>,
    /// Number of attempts before it became a dead letter, if it was one.
    pub attempts_before: u32,
    /// Time of its next attempt.
    pub due: Instant,
}

/// Part of an event that is not in other fields of a job, to encode.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EncodedPayload<'a> {
    operation: Operation,
    occurred_at: DateTime<Utc>,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
    attempts_before: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replay: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

/// The same, decoded.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DecodedPayload {
    operation: Operation,
    occurred_at: DateTime<Utc>,
    old: Option<Box<RawValue>>,
    new: Option<Box<RawValue>>,
    attempts_before: u32,
    #[serde(default)]
    replay: bool,
    #[serde(default)]
    traceparent: Option<String>,
}

impl PendingJob {
    fn id(&self) -> String {
        let ActionName { observer, action } = &self.name;
        let delivery = delivery_id(&self.event.id, observer, action);
        match &self.again {
            None => delivery,
            Some(again) => format!("{delivery}~{again}"),
        }
    }

    /// Returns the report of its delivery, once it is added.
    #[must_use]
    pub fn report(&self, now: Instant) -> DeliveryReport {
        let delay = self.due.saturating_duration_since(now);
        let again = self.again.as_deref().filter(|_| self.replay);
        DeliveryReport {
            event: Arc::clone(&self.event),
            name: self.name.clone(),
            replay: again.map(Arc::from),
            state: if self.attempts == 0 {
                DeliveryState::Queued
            } else {
                DeliveryState::Retrying
            },
            attempts: self.attempts.saturating_add(self.attempts_before),
            failures: self.history.clone(),
            success: None,
            due_at: Some(Utc::now() + delay),
            job: Some(self.id()),
        }
    }

    /// Returns the job, with its delay from `now`.
    pub fn job(&self, now: Instant) -> Result<NewJob, serde_json::Error> {
        let event = &self.event;
        let ActionName { observer, action } = &self.name;
        let payload = EncodedPayload {
            operation: event.operation,
            occurred_at: event.occurred_at,
            old: event.old.as_deref(),
            new: event.new.as_deref(),
            attempts_before: self.attempts_before,
            replay: self.replay,
            traceparent: event.trace.map(|trace| trace.to_string()),
        };
        Ok(NewJob {
            job: Job {
                id: self.id(),
                lane: Lane {
                    observer: Arc::clone(observer),
                    action: Arc::clone(action),
                    hash: self.key,
                },
                log_id: event.log_id,
                event_id: event.id.clone(),
                entity: event.entity.to_string(),
                key: event.key.clone(),
                tenant: event.tenant.clone(),
                priority: self.priority,
                event: serde_json::value::to_raw_value(&payload)?,
            },
            delay: self.due.saturating_duration_since(now),
            attempts: self.attempts,
            history: serde_json::value::to_raw_value(&self.history)?,
        })
    }
}

/// Decoded payload of a job.
#[derive(Debug)]
pub struct JobPayload {
    /// The event.
    pub event: Arc<Event>,
    /// Number of attempts before it became a dead letter, if it was one.
    pub attempts_before: u32,
    /// Name of the replay that it is part of, if any.
    pub replay: Option<Arc<str>>,
}

/// Decodes a job.
pub fn decode(job: &Job) -> Result<JobPayload, serde_json::Error> {
    let payload: DecodedPayload = serde_json::from_str(job.event.get())?;
    let event = Event {
        log_id: job.log_id,
        id: job.event_id.clone(),
        hash: job.lane.hash,
        entity: Arc::from(job.entity.as_str()),
        operation: payload.operation,
        key: job.key.clone(),
        tenant: job.tenant.clone(),
        occurred_at: payload.occurred_at,
        old: payload.old,
        new: payload.new,
        trace: payload.traceparent.as_deref().and_then(TraceContext::parse),
    };
    let again = job.id.rsplit_once('~').filter(|_| payload.replay);
    Ok(JobPayload {
        event: Arc::new(event),
        attempts_before: payload.attempts_before,
        replay: again.map(|(_, again)| Arc::from(again)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use super::*;

    #[test]
    fn event_survives_encoding_as_a_job() {
        let raw = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
        let now = Instant::now();
        let pending = PendingJob {
            event: Arc::new(Event {
                log_id: 42,
                id: "a-42".into(),
                hash: 7,
                entity: "public.orders".into(),
                operation: Operation::Update,
                key: Some("1".into()),
                tenant: None,
                occurred_at: DateTime::UNIX_EPOCH,
                old: None,
                new: raw(r#"{"total": 12345678901234567890.10, "note": "\u0000\"}"}"#),
                trace: Some(TraceContext::new([1; 16], [2; 8], true)),
            }),
            name: ActionName::new("default/big", "notify"),
            again: None,
            replay: false,
            lane: None,
            key: 7,
            priority: Priority::High,
            attempts: 2,
            history: Vec::new(),
            attempts_before: 8,
            due: now + Duration::from_secs(3),
        };
        let job = pending.job(now).unwrap();
        assert_eq!(job.delay, Duration::from_secs(3));
        let delivery = delivery_id("a-42", "default/big", "notify");
        assert_eq!(job.job.id, delivery);
        let again = PendingJob {
            again: Some("17".into()),
            ..pending.clone()
        };
        assert_eq!(again.job(now).unwrap().job.id, format!("{delivery}~17"));
        let payload = decode(&job.job).unwrap();
        assert_eq!((payload.attempts_before, &payload.replay), (8, &None));
        let event = payload.event;
        assert_eq!(format!("{event:?}"), format!("{:?}", pending.event));
    }
}
