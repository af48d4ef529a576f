//! The span of an event: from its commit until all its deliveries have ended here, or have become jobs.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use opentelemetry::trace::SpanKind;
use opentelemetry::{Array, KeyValue, StringValue, Value};

use crate::delivery::event::Event;
use crate::trace::spans::{EventTrace, Finished, Spans};

/// Span of an event whose trace is recorded.
#[derive(Debug)]
pub(super) struct EventSpan {
    trace: EventTrace,
    event: Arc<Event>,
    /// Deliveries that are still here.
    pending: AtomicUsize,
}

/// The matching of an event whose trace is recorded.
#[derive(Debug)]
pub(super) struct MatchSpan {
    trace: EventTrace,
    begun: SystemTime,
}

impl MatchSpan {
    /// Begins it, if the event's trace is recorded.
    pub(super) fn begin(spans: &Spans, event: &Event) -> Option<Self> {
        let trace = spans.of_event(&event.id, event.trace)?;
        let begun = SystemTime::now();
        Some(Self { trace, begun })
    }

    /// Ends it with the observers of the deliveries, and begins the span of the event.
    pub(super) fn end<'n>(
        self,
        event: &Arc<Event>,
        observers: impl Iterator<Item = &'n Arc<str>>,
        deliveries: usize,
    ) -> Arc<EventSpan> {
        let mut names: Vec<&Arc<str>> = observers.collect();
        names.dedup();
        let names = names
            .into_iter()
            .map(|name| StringValue::from(Arc::clone(name)));
        let names = Value::Array(Array::String(names.collect()));
        self.trace.end_part(
            self.begun,
            Finished {
                name: Cow::Borrowed("match"),
                kind: SpanKind::Internal,
                attributes: vec![KeyValue::new("observer.names", names)],
                error: None,
            },
        );
        Arc::new(EventSpan {
            trace: self.trace,
            event: Arc::clone(event),
            pending: AtomicUsize::new(deliveries),
        })
    }
}

impl EventSpan {
    /// Takes note that a delivery has ended here. The last one ends the span. Those that are cancelled do not:
    /// they are made again, perhaps by another process, which then ends it.
    pub(super) fn settle(&self) {
        if self.pending.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        let event = &self.event;
        self.trace.end_event(
            SystemTime::from(event.occurred_at),
            Finished {
                name: Cow::Owned(format!("process {}", event.entity)),
                kind: SpanKind::Consumer,
                attributes: vec![
                    KeyValue::new("observer.event.id", event.id.clone()),
                    KeyValue::new("observer.event.entity", Arc::clone(&event.entity)),
                    KeyValue::new("observer.event.operation", event.operation.as_str()),
                ],
                error: None,
            },
        );
    }
}
