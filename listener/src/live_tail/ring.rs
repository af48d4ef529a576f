//! The latest events, by consecutive numbers.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use crds::config::Operation;
use schemars::JsonSchema;
use serde::Serialize;

use crate::delivery::event::Event;

/// Maximum number of events that are kept.
const MAX_EVENTS: usize = 1000;

/// Maximum number of bytes that they have.
const MAX_BYTES: usize = 2 << 20;

/// An event without the values of its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(crate) struct TailedEvent {
    /// Id of the event.
    id: String,
    /// Its number in the change log.
    log_id: i64,
    /// Its entity.
    entity: String,
    /// The operation.
    operation: Operation,
    /// Key of the row.
    key: Option<String>,
    /// The tenant.
    tenant: Option<String>,
    /// When it occurred.
    #[schemars(with = "String", extend("format" = "date-time"))]
    occurred_at: DateTime<Utc>,
    /// Names of the columns that an update changed.
    changed: Vec<String>,
}

impl From<&Event> for TailedEvent {
    fn from(event: &Event) -> Self {
        Self {
            id: event.id.clone(),
            log_id: event.log_id,
            entity: event.entity.to_string(),
            operation: event.operation,
            key: event.key.clone(),
            tenant: event.tenant.clone(),
            occurred_at: event.occurred_at,
            changed: event.changed(),
        }
    }
}

impl TailedEvent {
    /// Returns about how many bytes it has in memory.
    fn bytes(&self) -> usize {
        let texts = [Some(&self.id), Some(&self.entity), self.key.as_ref()];
        let texts = texts.into_iter().chain([self.tenant.as_ref()]).flatten();
        let changed = self
            .changed
            .iter()
            .map(|name| size_of::<String>() + name.len());
        size_of::<Self>() + texts.map(String::len).sum::<usize>() + changed.sum::<usize>()
    }
}

/// The latest events, bounded in number and in bytes.
#[derive(Debug, Default)]
pub(super) struct EventRing {
    events: VecDeque<TailedEvent>,
    bytes: usize,
    /// Number of the event that comes next.
    next: u64,
}

/// What was read of the ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RingPage {
    /// Events, in order.
    pub(super) items: Vec<TailedEvent>,
    /// Number of the event to go on with.
    pub(super) next: u64,
    /// Whether events are not among them that came after the last page.
    pub(super) missed: bool,
}

impl EventRing {
    /// Adds an event, and drops the oldest where there are too many.
    pub(super) fn push(&mut self, event: TailedEvent) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        self.next += 1;
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// Notes that some events are not known: whoever reads on misses them.
    pub(super) fn lose(&mut self) {
        self.events.clear();
        (self.bytes, self.next) = (0, self.next + 1);
    }

    /// Returns the number of the event that comes next.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Returns at most `limit` events of a tenant, or of all, from this number on. Without a number that is in the
    /// ring, they begin with its oldest.
    pub(super) fn read(&self, from: Option<u64>, limit: usize, tenant: Option<&str>) -> RingPage {
        let oldest = self.next - self.events.len() as u64;
        let known = from.filter(|from| (oldest..=self.next).contains(from));
        let mut page = RingPage {
            items: Vec::new(),
            next: known.unwrap_or(oldest),
            missed: known.is_none(),
        };
        let skipped = usize::try_from(page.next - oldest).unwrap_or(usize::MAX);
        for event in self.events.iter().skip(skipped) {
            if page.items.len() >= limit {
                break;
            }
            page.next += 1;
            if tenant.is_none() || event.tenant.as_deref() == tenant {
                page.items.push(event.clone());
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(log_id: i64, tenant: &str) -> TailedEvent {
        TailedEvent {
            id: log_id.to_string(),
            log_id,
            entity: "public.orders".to_owned(),
            operation: Operation::Insert,
            key: None,
            tenant: Some(tenant.to_owned()),
            occurred_at: DateTime::UNIX_EPOCH,
            changed: Vec::new(),
        }
    }

    fn ids(page: &RingPage) -> Vec<i64> {
        page.items.iter().map(|one| one.log_id).collect()
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut ring = EventRing::default();
        let begin = ring.next();
        assert_eq!(ring.read(Some(begin), 10, None).items, []);
        for id in 1..=5 {
            ring.push(event(id, "a"));
        }
        let first = ring.read(Some(begin), 3, None);
        assert_eq!((ids(&first), first.missed), (vec![1, 2, 3], false));
        let second = ring.read(Some(first.next), 3, None);
        assert_eq!((ids(&second), second.missed), (vec![4, 5], false));
        assert_eq!(second.next, ring.next());
    }

    #[test]
    fn tenant_reads_its_own_and_passes_over_others() {
        let mut ring = EventRing::default();
        for (id, tenant) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
            ring.push(event(id, tenant));
        }
        let page = ring.read(Some(0), 1, Some("b"));
        assert_eq!((ids(&page), page.next), (vec![2], 2));
        let page = ring.read(Some(2), 10, Some("a"));
        assert_eq!((ids(&page), page.next), (vec![3], 4));
    }

    #[test]
    fn what_fell_out_was_missed() {
        let mut ring = EventRing::default();
        for id in 0..1200 {
            ring.push(event(id, "a"));
        }
        let page = ring.read(Some(199), 1, None);
        assert_eq!((ids(&page), page.missed), (vec![200], true));
        assert!(!ring.read(Some(200), 1, None).missed);
        assert!(ring.read(None, 1, None).missed, "a cursor of elsewhere");
        assert!(ring.read(Some(1201), 1, None).missed, "of the future");
        ring.lose();
        let page = ring.read(Some(1200), 10, None);
        assert_eq!((ids(&page), page.missed), (Vec::new(), true));
        assert!(!ring.read(Some(page.next), 10, None).missed);
    }

    #[test]
    fn long_keys_take_the_place_of_many_events() {
        let mut ring = EventRing::default();
        let long = |id| TailedEvent {
            key: Some("k".repeat(MAX_BYTES / 4)),
            ..event(id, "a")
        };
        for id in 0..10 {
            ring.push(long(id));
        }
        assert_eq!(ids(&ring.read(None, 100, None)), [7, 8, 9]);
        assert!(ring.bytes <= MAX_BYTES);
        for id in 10..20 {
            ring.push(event(id, "a"));
        }
        let all = ring.read(None, 100, None);
        assert_eq!(ids(&all).len(), 13);
        ring.push(TailedEvent {
            key: Some("k".repeat(MAX_BYTES)),
            ..event(20, "a")
        });
        assert!(ring.read(Some(all.next), 100, None).missed);
        assert_eq!(ring.bytes, 0);
    }
}
