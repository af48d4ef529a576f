//! Reports of what became of deliveries, for the history.
//!
//! Whoever ends or changes a delivery reports it and never waits: reports go into a bounded buffer, and
//! what does not fit is dropped and counted. The history finds out about it elsewhere then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use search::DeliveryState;

use super::ActionName;
use super::attempt::Attempt;
use super::event::Event;
use crate::sync::lock;

/// Maximum number of reports that wait to be taken.
const MAX_REPORTS: usize = 32_768;

/// Maximum bytes of events that are kept for reports. The first report is always taken.
const MAX_BYTES: u64 = 16 << 20;

/// What became of a delivery.
#[derive(Clone, Debug)]
pub struct DeliveryReport {
    /// The event.
    pub event: Arc<Event>,
    /// Names of observer and action.
    pub name: ActionName,
    /// The replay that it is part of, if any.
    pub replay: Option<Arc<str>>,
    /// Where it is now.
    pub state: DeliveryState,
    /// Number of attempts so far, those before a redrive too.
    pub attempts: u32,
    /// The latest failed attempts, the last one last.
    pub failures: Vec<Attempt>,
    /// The attempt that succeeded.
    pub success: Option<Success>,
    /// When the next attempt is due.
    pub due_at: Option<DateTime<Utc>>,
    /// Id of its job, while it has one.
    pub job: Option<String>,
}

/// An attempt that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Success {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// How long it took.
    pub took: Duration,
    /// Why nothing was sent, in a word; nothing where it was.
    pub unsent: Option<&'static str>,
}

/// Reports that wait to be taken.
#[derive(Debug, Default)]
struct Waiting {
    reports: VecDeque<DeliveryReport>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct ReportBuffer {
    waiting: Mutex<Waiting>,
    dropped: AtomicU64,
}

/// Handle for reports, which may be cloned. The default one takes none, at no cost.
#[derive(Clone, Debug, Default)]
pub struct DeliveryReporter(Option<Arc<ReportBuffer>>);

impl DeliveryReporter {
    /// Creates a reporter with an empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Returns whether reports are taken.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Reports, if reports are taken and there is room.
    pub fn report(&self, make: impl FnOnce() -> DeliveryReport) {
        let Some(buffer) = &self.0 else {
            return;
        };
        let report = make();
        let bytes = report.event.bytes();
        let mut waiting = lock(&buffer.waiting);
        let has_room = waiting.reports.is_empty()
            || waiting.reports.len() < MAX_REPORTS && waiting.bytes + bytes <= MAX_BYTES;
        if has_room {
            waiting.bytes += bytes;
            waiting.reports.push_back(report);
        } else {
            buffer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the oldest reports, at most `most`.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<DeliveryReport> {
        let Some(buffer) = &self.0 else {
            return Vec::new();
        };
        let mut waiting = lock(&buffer.waiting);
        let count = waiting.reports.len().min(most);
        let taken: Vec<DeliveryReport> = waiting.reports.drain(..count).collect();
        let bytes: u64 = taken.iter().map(|one| one.event.bytes()).sum();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        taken
    }

    /// Returns how many reports were dropped since the last call.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        let buffer = self.0.as_ref();
        buffer.map_or(0, |buffer| buffer.dropped.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::value::RawValue;

    use super::*;

    fn report(log_id: i64, bytes: usize) -> DeliveryReport {
        let image = format!("\"{}\"", "x".repeat(bytes));
        DeliveryReport {
            event: Arc::new(Event {
                new: Some(RawValue::from_string(image).unwrap()),
                ..Event::fixture(log_id)
            }),
            name: ActionName::new("default/big", "notify"),
            replay: None,
            state: DeliveryState::Delivered,
            attempts: 1,
            failures: Vec::new(),
            success: None,
            due_at: None,
            job: None,
        }
    }

    #[test]
    fn reports_beyond_the_bounds_are_dropped_and_counted() {
        let reporter = DeliveryReporter::new();
        for n in 0..i64::try_from(MAX_REPORTS).unwrap() + 7 {
            reporter.report(|| report(n, 0));
        }
        assert_eq!(reporter.take_dropped(), 7);
        assert_eq!(reporter.take_dropped(), 0);
        let first = reporter.take(2);
        let ids: Vec<i64> = first.iter().map(|one| one.event.log_id).collect();
        assert_eq!(ids, [0, 1]);
        assert_eq!(reporter.take(usize::MAX).len(), MAX_REPORTS - 2);

        let large = usize::try_from(MAX_BYTES).unwrap();
        reporter.report(|| report(1, large * 2));
        reporter.report(|| report(2, 0));
        assert_eq!(reporter.take_dropped(), 1, "no room beside a larger one");
        assert_eq!(reporter.take(9).len(), 1, "one that is too large has room");
        reporter.report(|| report(3, large / 2));
        reporter.report(|| report(4, large / 3));
        assert_eq!((reporter.take_dropped(), reporter.take(9).len()), (0, 2));
    }

    #[test]
    fn disabled_reporter_makes_no_report() {
        let reporter = DeliveryReporter::default();
        reporter.report(|| unreachable!("it is not made"));
        assert!(!reporter.is_enabled() && reporter.take(1).is_empty());
        assert_eq!(reporter.take_dropped(), 0);
    }
}
