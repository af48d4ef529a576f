//! Follows the change log without a claim on shards: each committed event once, in the order of windows.
//!
//! A server that has recovered from a crash may draw transaction ids again, of which the last snapshots say
//! that they are behind. So after each error the log is read once more from a position that is old enough for
//! all of its transaction ids to have reached the disk, without the events that were read since.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::change_log::{ChangeLog, ChangeRecord, LogError, ShardFilter};
use super::position::{LogBound, Position, Window};

/// Age from which a position survives a crash of the server: its WAL writer needs three times its delay,
/// which is 200 ms unless it was changed.
const SAFE_AGE: Duration = Duration::from_secs(10);

/// Time between two positions that are remembered.
const MARK_INTERVAL: Duration = Duration::from_secs(5);

/// Number of events after which the next position is remembered already.
const MARK_EVENTS: usize = 50_000;

/// Maximum number of positions that are remembered.
const MAX_MARKS: usize = 12;

/// All shards.
const ALL: ShardFilter<'_> = ShardFilter {
    shards: &[0],
    shard_count: 1,
};

/// Statement that finds the first event since a time. Events that are not committed yet are in later windows.
const FIRST_SINCE_SQL: &str =
    "select id from observer.change_log where occurred_at >= $1 order by id limit 1";

/// A position to which reading can go back, and what was read after it.
#[derive(Debug)]
struct Mark {
    position: Position,
    /// When the later bound of the position was read.
    bound_at: Instant,
    made_at: Instant,
    /// Number in the log and time of each event, in microseconds.
    read: HashSet<(i64, i64)>,
}

/// A reader of all events of the log that are committed from a time on.
#[derive(Debug)]
pub struct LogTail {
    log: ChangeLog,
    /// The server's life, if a listener has named it.
    incarnation: Option<Uuid>,
    pool: PgPool,
    /// The listener whose backfills are read; of all listeners where empty.
    listener: String,
    position: Position,
    /// When the later bound of the position was read.
    bound_at: Instant,
    /// Events of the first window that occurred before this are left out.
    since: Option<DateTime<Utc>>,
    /// The oldest first; never empty.
    marks: VecDeque<Mark>,
    /// Whether the last read failed.
    is_broken: bool,
    repeated: Repeated,
}

/// Which events come once more that were read already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeated {
    /// None.
    Nothing,
    /// Those of the window in which the mark is.
    MarkedWindow,
    /// Those of the first window that was opened since, which is up to date.
    NewWindow,
}

/// The result of one read.
#[derive(Debug)]
pub enum TailStep {
    /// Events; more may follow at once.
    Events(Vec<ChangeRecord>),
    /// Nothing new.
    Idle,
    /// The database has gone back in time, or is another one: what comes next is read, and events may have
    /// been missed.
    Reset,
}

impl LogTail {
    /// Opens the log, to read what is committed from now on, and with `since` also what occurred from then on. Of
    /// backfills only those of the listener, if one is named.
    pub async fn open(
        pool: PgPool,
        since: Option<DateTime<Utc>>,
        listener: Option<String>,
    ) -> Result<Self, LogError> {
        let log = ChangeLog::open(pool.clone()).await?;
        let incarnation = read_incarnation(&pool).await?;
        let bound = Arc::new(log.current_bound().await?);
        let mut position = Position::at(Arc::clone(&bound));
        if let Some(since) = since {
            // After the bound, so that it sees all that the window holds.
            let first: Option<i64> = sqlx::query_scalar(FIRST_SINCE_SQL)
                .bind(since)
                .fetch_optional(&pool)
                .await?;
            if let Some(first) = first {
                let window = Window {
                    from: Arc::new(LogBound::genesis()),
                    to: bound,
                };
                position = Position::within(&window, first - 1);
            }
        }
        let now = Instant::now();
        Ok(Self {
            log,
            incarnation,
            pool,
            listener: listener.unwrap_or_default(),
            since: since.filter(|_| position.to.is_some()),
            marks: VecDeque::from([Mark::new(&position, now)]),
            position,
            bound_at: now,
            is_broken: false,
            repeated: Repeated::Nothing,
        })
    }

    /// Reads the next page, or finds that there is none. May be called again after an error.
    pub async fn read_next(&mut self) -> Result<TailStep, LogError> {
        let step = self.try_read().await;
        self.is_broken |= step.is_err();
        step
    }

    async fn try_read(&mut self) -> Result<TailStep, LogError> {
        if self.is_broken {
            let went_on = self.go_back().await?;
            self.is_broken = false;
            if !went_on {
                return Ok(TailStep::Reset);
            }
        }
        let window = match self.position.window() {
            Some(window) => window,
            None => match self.open_window().await? {
                Some(window) => window,
                None => return Ok(TailStep::Idle),
            },
        };
        let page = self
            .log
            .read_page(&window, self.position.last_id, ALL, &self.listener)
            .await?;
        let mut events = page.events;
        if self.repeated != Repeated::Nothing {
            events.retain(|one| !self.marks.iter().any(|mark| mark.read.contains(&key(one))));
        }
        if let Some(mark) = self.marks.back_mut() {
            mark.read.extend(events.iter().map(key));
        }
        if let Some(since) = self.since {
            events.retain(|one| one.event.occurred_at >= since);
        }
        if page.last {
            self.position = Position::at(Arc::clone(&window.to));
            self.since = None;
            if self.repeated == Repeated::NewWindow {
                self.repeated = Repeated::Nothing;
            }
        } else {
            let reached = page.reached.unwrap_or(self.position.last_id);
            self.position = Position::within(&window, reached);
        }
        self.mark();
        Ok(TailStep::Events(events))
    }

    /// Opens a window up to now; none if nothing is new.
    async fn open_window(&mut self) -> Result<Option<Window>, LogError> {
        let from = Arc::clone(&self.position.from);
        // While nothing is new, the known watermark stays the tightest; a new one takes a transaction id.
        let mut window = self.poll(&from, from.low_id).await?;
        if window.as_ref().is_some_and(Window::may_hold_events) {
            let low_id = self.log.low_watermark().await?;
            window = self.poll(&from, low_id).await?;
        }
        let Some(window) = window else {
            // Its next read goes back.
            self.is_broken = true;
            return Ok(None);
        };
        self.bound_at = Instant::now();
        if window.may_hold_events() {
            if self.repeated == Repeated::MarkedWindow {
                self.repeated = Repeated::NewWindow;
            }
            self.position = Position::within(&window, 0);
            return Ok(Some(window));
        }
        self.repeated = Repeated::Nothing;
        self.position = Position::at(window.to);
        self.mark();
        Ok(None)
    }

    /// Reads the window from a bound up to now; none if the server has recovered from a crash unnoticed.
    async fn poll(&self, from: &Arc<LogBound>, low_id: i64) -> Result<Option<Window>, LogError> {
        let incarnation = self.incarnation.unwrap_or_default();
        let polled = self.log.poll(low_id, "", incarnation, &[]).await?;
        let is_known = self.incarnation.is_some();
        let covers = polled.bound.snapshot.covers(&from.snapshot);
        if (is_known && !polled.same_incarnation) || !covers || polled.bound.high_id < from.high_id
        {
            return Ok(None);
        }
        Ok(Some(Window {
            from: Arc::clone(from),
            to: Arc::new(polled.bound),
        }))
    }

    /// Goes back to the last position that is certain to have survived a crash. Returns whether there is one
    /// that this database has come to; otherwise begins with what comes next.
    async fn go_back(&mut self) -> Result<bool, LogError> {
        self.incarnation = read_incarnation(&self.pool).await?;
        let bound = self.log.current_bound().await?;
        let mut marks = std::mem::take(&mut self.marks).into_iter();
        let marked = marks.next().filter(|mark| {
            let latest = mark.position.latest_bound();
            bound.snapshot.covers(&latest.snapshot) && bound.high_id >= latest.high_id
        });
        if let Some(mut mark) = marked {
            // Later ones may be of the server's life before.
            mark.read.extend(marks.flat_map(|later| later.read));
            self.position = mark.position.clone();
            self.marks.push_back(mark);
            self.repeated = Repeated::MarkedWindow;
            return Ok(true);
        }
        self.bound_at = Instant::now();
        self.position = Position::at(Arc::new(bound));
        self.marks
            .push_back(Mark::new(&self.position, self.bound_at));
        (self.since, self.repeated) = (None, Repeated::Nothing);
        Ok(false)
    }

    /// Remembers the position if it is time to, and forgets those before one that is safe.
    fn mark(&mut self) {
        let is_due = self.marks.back().is_none_or(|last| {
            last.made_at.elapsed() >= MARK_INTERVAL || last.read.len() >= MARK_EVENTS
        });
        // While events come again, what is marked is further.
        if is_due && self.repeated == Repeated::Nothing {
            self.marks
                .push_back(Mark::new(&self.position, self.bound_at));
        }
        let next_is_safe = |marks: &VecDeque<Mark>| {
            let next = marks.get(1);
            next.is_some_and(|mark| mark.bound_at.elapsed() >= SAFE_AGE)
        };
        while next_is_safe(&self.marks) || self.marks.len() > MAX_MARKS {
            self.marks.pop_front();
        }
    }
}

impl Mark {
    fn new(position: &Position, bound_at: Instant) -> Self {
        Self {
            position: position.clone(),
            bound_at,
            made_at: Instant::now(),
            read: HashSet::new(),
        }
    }
}

/// Returns what tells an event from all others of the log.
fn key(record: &ChangeRecord) -> (i64, i64) {
    let event = &record.event;
    (event.log_id, event.occurred_at.timestamp_micros())
}

/// Reads which life of the server this is; none if no listener has run in it.
pub(super) async fn read_incarnation(pool: &PgPool) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select id from observer.server_incarnation")
        .fetch_optional(pool)
        .await
}
