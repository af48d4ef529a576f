//! The receiver of all that is measured: it finds the numbers of the events in a body, notes when each
//! came first, and answers. It keeps no requests, so as to take little of the machine from the sender.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use testkit::http_sink::{self, Handler, Options, Request};
use tokio::sync::Notify;

/// The column whose value tells events apart.
const COLUMN: &[u8] = b"\"bench_id\"";

/// How requests are answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    /// After so long.
    pub(crate) delay: Duration,
    /// One in so many is answered with 503; none where it is 0.
    pub(crate) fail_one_in: u64,
}

/// What has arrived.
#[derive(Debug)]
pub(crate) struct Record {
    began: Instant,
    /// When each event came first, in microseconds since the beginning; 0 where it has not.
    first: Vec<AtomicU64>,
    /// The greatest number of each lane so far.
    lanes: Vec<AtomicI64>,
    /// When the latest came that had not come before.
    latest: AtomicU64,
    distinct: AtomicU64,
    repeated: AtomicU64,
    out_of_order: AtomicU64,
    requests: AtomicU64,
    more: Notify,
}

/// What should not be.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) out_of_order: u64,
}

impl Record {
    fn note(&self, id: u64, at: u64) {
        let Some(first) = usize::try_from(id).ok().and_then(|at| self.first.get(at)) else {
            return;
        };
        let came = first.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
        if came.is_err() {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let id = i64::try_from(id).unwrap_or(i64::MAX);
        let lane = &self.lanes[lane(id, self.lanes.len())];
        if lane.fetch_max(id, Ordering::Relaxed) > id {
            self.out_of_order.fetch_add(1, Ordering::Relaxed);
        }
        self.latest.fetch_max(at, Ordering::Relaxed);
        self.distinct.fetch_add(1, Ordering::Relaxed);
        self.more.notify_waiters();
    }

    /// Waits for so many different events, until `end`, or until none has come for `patience`.
    /// Whether all came.
    pub(crate) async fn wait_for(&self, count: u64, end: Instant, patience: Duration) -> bool {
        let (mut seen, mut since) = (self.distinct(), Instant::now());
        while self.distinct() < count {
            let limit = end.min(since + patience);
            if Instant::now() >= end {
                return false;
            }
            let more = tokio::time::timeout_at(limit.into(), self.more.notified()).await;
            let now = self.distinct();
            if now > seen {
                (seen, since) = (now, Instant::now());
            } else if more.is_err() && since.elapsed() >= patience {
                eprintln!("only {now} of {count} events have come, and no more for {patience:?}");
                return false;
            }
        }
        true
    }

    /// Where so many were to come.
    pub(crate) fn faults(&self, wanted: u64) -> Faults {
        Faults {
            lost: wanted.saturating_sub(self.distinct()),
            repeated: self.repeated.load(Ordering::Relaxed),
            out_of_order: self.out_of_order.load(Ordering::Relaxed),
        }
    }

    /// When the latest event came that had not come before.
    pub(crate) fn latest(&self) -> Instant {
        self.began + Duration::from_micros(self.latest.load(Ordering::Relaxed))
    }

    pub(crate) fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// When an event came first, if it has.
    pub(crate) fn at(&self, id: u64) -> Option<Instant> {
        let first = self.first.get(usize::try_from(id).ok()?)?;
        match first.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.began + Duration::from_micros(at)),
        }
    }
}

/// The lane of an event.
fn lane(id: i64, lanes: usize) -> usize {
    usize::try_from(id).unwrap_or(0) % lanes.max(1)
}

/// The numbers of the events in a body.
fn ids(body: &[u8]) -> impl Iterator<Item = u64> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let at = memchr::memmem::find(rest, COLUMN)?;
        rest = &rest[at + COLUMN.len()..];
        let from = rest.iter().position(u8::is_ascii_digit)?;
        let digits = &rest[from..];
        let to = digits.iter().position(|byte| !byte.is_ascii_digit());
        let digits = &digits[..to.unwrap_or(digits.len())];
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
}

impl Handler for Record {
    fn delivered(&self, request: &Request, status: u16) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if status == 200 {
            let at = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            for id in ids(&request.body) {
                self.note(id, at.max(1));
            }
        }
    }
}

/// A running receiver; dropping it closes its connections.
pub(crate) struct Sink {
    pub(crate) record: Arc<Record>,
    pub(crate) url: String,
    _server: http_sink::Sink,
}

impl Sink {
    /// For events with numbers below `events`, in so many lanes.
    pub(crate) async fn start(
        events: u64,
        lanes: usize,
        behaviour: Behaviour,
    ) -> anyhow::Result<Self> {
        let events = usize::try_from(events)?;
        let record = Arc::new(Record {
            began: Instant::now(),
            first: (0..events).map(|_| AtomicU64::new(0)).collect(),
            lanes: (0..lanes).map(|_| AtomicI64::new(-1)).collect(),
            latest: AtomicU64::new(0),
            distinct: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            out_of_order: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            more: Notify::new(),
        });
        let server = http_sink::Sink::start_with(Options {
            behaviour: http_sink::Behaviour::Steady {
                status: 200,
                pause: behaviour.delay,
                fail_one_in: behaviour.fail_one_in,
            },
            keep: false,
            handler: Some(Arc::<Record>::clone(&record)),
            ..Options::default()
        })
        .await?;
        Ok(Self {
            record,
            url: server.url("/hook"),
            _server: server,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_all_events_in_a_body_are_found() {
        let one = br#"{"old":null,"new":{"bench_id":17,"note":"x"}}"#;
        assert_eq!(ids(one).collect::<Vec<_>>(), [17]);
        let many = br#"[{"bench_id": 1},{"bench_id" : 20},{"other":3},{"bench_id":3"#;
        assert_eq!(ids(many).collect::<Vec<_>>(), [1, 20, 3]);
        assert_eq!(ids(b"{}").count(), 0);
    }
}
