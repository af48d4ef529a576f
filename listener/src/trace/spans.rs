//! Spans of events and attempts. Making one costs nothing where traces are off.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::SystemTime;

use opentelemetry::trace::{
    SpanContext, SpanId as SdkSpanId, SpanKind, Status, TraceFlags, TraceId as SdkTraceId,
    TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus::IntCounter;
use server::exemplars::RecordedSpan;
use tokio::sync::mpsc;

use super::context::{SpanId, TraceContext, TraceId, derived_span, trace_of};
use super::settings::Sampler;

/// Most bytes of a message of a failure in a span.
const MAX_MESSAGE: usize = 1024;

/// Where spans go; nowhere where traces are off.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<SpanData>,
    sampler: Sampler,
    listener: Arc<str>,
    dropped: IntCounter,
    scope: InstrumentationScope,
    /// Beginning of this process's ids, and how many there are so far.
    seed: u64,
    count: AtomicU64,
}

/// The trace of an event that is recorded.
#[derive(Clone, Debug)]
pub(crate) struct EventTrace {
    inner: Arc<Inner>,
    trace: TraceId,
    /// The writer's span.
    parent: Option<SpanId>,
    /// The event's span, which every process of the listener names alike.
    span: SpanId,
}

/// What is known of an attempt's trace.
#[derive(Clone, Debug, Default)]
pub enum AttemptTrace {
    /// Traces are off.
    #[default]
    Off,
    /// Traces are on, and this one is not recorded.
    Dropped,
    /// It is recorded.
    Recorded(Arc<AttemptSpan>),
}

/// The span of an attempt that is under way.
#[derive(Debug)]
pub struct AttemptSpan {
    trace: EventTrace,
    parent: SpanId,
    span: SpanId,
    begun: SystemTime,
    /// Status of the response by HTTP; 0 while there is none.
    status: AtomicU16,
}

/// What a finished span says.
pub(crate) struct Finished {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    pub(crate) attributes: Vec<KeyValue>,
    /// What went wrong.
    pub(crate) error: Option<String>,
}

impl Spans {
    /// Creates the way of spans to `queue`.
    pub(super) fn new(
        queue: mpsc::Sender<SpanData>,
        sampler: Sampler,
        (listener, dropped): (&str, &IntCounter),
        seed: u64,
    ) -> Self {
        let scope = InstrumentationScope::builder("observer-listener")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Arc::new(Inner {
            queue,
            sampler,
            listener: Arc::from(listener),
            dropped: dropped.clone(),
            scope,
            seed,
            count: AtomicU64::new(0),
        })))
    }

    /// Returns the trace of an event, if it is recorded.
    pub(crate) fn of_event(
        &self,
        event_id: &str,
        writer: Option<TraceContext>,
    ) -> Option<EventTrace> {
        let inner = self.0.as_ref()?;
        let trace = trace_of(event_id, writer);
        inner.sampler.records(trace, writer).then(|| EventTrace {
            inner: Arc::clone(inner),
            trace,
            parent: writer.map(|writer| writer.span),
            span: derived_span(&format!("{}\n{event_id}", inner.listener)),
        })
    }

    /// Begins an attempt to deliver an event.
    pub(crate) fn begin_attempt(
        &self,
        event_id: &str,
        writer: Option<TraceContext>,
    ) -> AttemptTrace {
        match (&self.0, self.of_event(event_id, writer)) {
            (None, _) => AttemptTrace::Off,
            (Some(_), None) => AttemptTrace::Dropped,
            (Some(_), Some(trace)) => {
                let parent = trace.span;
                AttemptTrace::Recorded(Arc::new(trace.begin(parent)))
            }
        }
    }
}

impl Inner {
    /// Returns an id that no other span has: the finalizer of `SplitMix64`, over a count.
    fn next_id(&self) -> SpanId {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let mut z = self
            .seed
            .wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).max(1).to_be_bytes()
    }
}

impl EventTrace {
    fn begin(self, parent: SpanId) -> AttemptSpan {
        AttemptSpan {
            parent,
            span: self.inner.next_id(),
            trace: self,
            begun: SystemTime::now(),
            status: AtomicU16::new(0),
        }
    }

    /// Records the event's own span.
    pub(crate) fn end_event(&self, begun: SystemTime, finished: Finished) {
        self.record(self.span, self.parent, begun, finished);
    }

    /// Records a span within the event's.
    pub(crate) fn end_part(&self, begun: SystemTime, finished: Finished) {
        self.record(self.inner.next_id(), Some(self.span), begun, finished);
    }

    fn record(&self, span: SpanId, parent: Option<SpanId>, begun: SystemTime, finished: Finished) {
        let inner = &self.inner;
        let context = SpanContext::new(
            SdkTraceId::from_bytes(self.trace),
            SdkSpanId::from_bytes(span),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        let data = SpanData {
            span_context: context,
            parent_span_is_remote: parent.is_some() && parent == self.parent,
            parent_span_id: parent.map_or(SdkSpanId::INVALID, SdkSpanId::from_bytes),
            span_kind: finished.kind,
            name: finished.name,
            start_time: begun,
            end_time: SystemTime::now().max(begun),
            attributes: finished.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match finished.error {
                None => Status::Unset,
                Some(mut message) => {
                    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
                    Status::error(message)
                }
            },
            instrumentation_scope: inner.scope.clone(),
        };
        if inner.queue.try_send(data).is_err() {
            inner.dropped.inc();
        }
    }
}

impl AttemptSpan {
    /// Returns the context that the receiver is given.
    pub(crate) const fn context(&self) -> TraceContext {
        TraceContext::new(self.trace.trace, self.span, true)
    }

    /// Returns it as exemplars name it.
    pub(crate) const fn recorded(&self) -> RecordedSpan {
        RecordedSpan {
            trace: self.trace.trace,
            span: self.span,
        }
    }

    /// Takes note of the status of the response.
    pub(crate) fn note_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Returns the status of the response, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// Begins a span within this one.
    pub(crate) fn begin_part(&self) -> Self {
        self.trace.clone().begin(self.span)
    }

    /// Records the span.
    pub(crate) fn end(&self, finished: Finished) {
        let trace = &self.trace;
        trace.record(self.span, Some(self.parent), self.begun, finished);
    }
}
