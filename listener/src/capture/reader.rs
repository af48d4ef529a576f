//! Reader of the change log: chooses the window to read, pages through it, and reports the position
//! of each shard after every page.
//!
//! Positions are in memory only: how far a shard may be saved is decided by the dispatcher's ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::change_log::{ChangeLog, ChangeRecord, LogError, MAX_SCANNED, ShardFilter};
use super::notifications::AppendNotifications;
use super::position::{LogBound, Position, ReadOrder, ReadPlan, Window, next_read};

/// While nothing is read, positions are reported for saving only after this many transactions, so
/// that an idle listener seldom writes but does not hold back retention.
const IDLE_XIDS: u64 = 1000;

/// Minimum time between two such reports.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// Maximum distance in ids between two shards in one window that are read for together: some pages.
const MAX_SHARED_GAP: i64 = 4 * MAX_SCANNED;

/// Reading cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The change log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The server recovered from a crash or was promoted.
    #[error("Postgres has recovered from a crash, or another server has taken its place")]
    ServerRestarted,
    /// The database has gone back in time under a running listener.
    #[error(transparent)]
    Ahead(#[from] PositionAheadOfDatabase),
}

/// A stored position is ahead of the database.
#[derive(Debug, thiserror::Error)]
#[error(
    "listener {listener} has read further than this database has come, so the database was restored from a backup \
     or replaced: nothing was changed. Run `observer-listener reset-position` to go on with all that the log holds, or \
     `observer-listener reset-position --to latest` to go on with what comes next"
)]
pub struct PositionAheadOfDatabase {
    /// The listener.
    pub listener: String,
}

/// The claim epoch under which a shard is read.
pub type Epoch = i64;

/// The shards to read for, each with the epoch of its claim and the position to start from.
pub type Assignment = BTreeMap<u16, (Epoch, Position)>;

/// The events of one page, and the positions after it.
#[derive(Debug)]
pub struct EventBatch {
    /// Number of the window, growing.
    pub window: u64,
    /// The window; absent when only positions moved.
    pub bounds: Option<Window>,
    /// Events for the shards below, in id order.
    pub events: Vec<ChangeRecord>,
    /// Positions of shards after these events: shard, epoch, position.
    pub reached: Vec<(u16, Epoch, Position)>,
    /// Shards, with the epoch under which they were read, that another process has claimed since.
    pub fenced: Vec<(u16, Epoch)>,
    /// Upper bound of the events that are still to be read.
    pub backlog: u64,
}

/// The result of one read.
#[derive(Debug)]
pub enum ReadStep {
    /// Events or positions; more may follow at once.
    Batch(EventBatch),
    /// Nothing new; `Some` when the positions are worth saving nevertheless.
    Idle(Option<EventBatch>),
}

/// The listener that is read for, and the server incarnation in which its shards were claimed.
#[derive(Clone, Debug)]
pub struct ReaderIdentity {
    /// The listener.
    pub listener: Arc<str>,
    /// How many shards it has.
    pub shards: u16,
    /// The server incarnation.
    pub server_incarnation: Uuid,
}

/// Reader of the change log for the assigned shards.
#[derive(Debug)]
pub struct LogReader {
    log: ChangeLog,
    identity: ReaderIdentity,
    positions: Assignment,
    window: u64,
    open: Option<Window>,
    last_reported: (u64, Instant),
    /// The backlog that was reported last.
    reported_backlog: u64,
    order: ReadOrder,
    /// Told when something was appended, by sources that say so.
    notifications: Arc<AppendNotifications>,
}

/// A range to read, and the shards to read it for.
struct ReadTarget {
    plan: ReadPlan,
    members: Vec<u16>,
}

impl LogReader {
    /// Creates a reader without shards.
    #[must_use]
    pub fn new(log: ChangeLog, identity: ReaderIdentity) -> Self {
        Self {
            log,
            identity,
            positions: Assignment::new(),
            window: 0,
            open: None,
            last_reported: (0, Instant::now()),
            reported_backlog: 0,
            order: ReadOrder::Lagging,
            notifications: Arc::default(),
        }
    }

    /// Returns it with what it is told by when something was appended.
    #[must_use]
    pub fn woken_by(self, notifications: Arc<AppendNotifications>) -> Self {
        Self {
            notifications,
            ..self
        }
    }

    /// Returns what tells of appended events.
    pub(crate) fn notifications(&self) -> &AppendNotifications {
        &self.notifications
    }

    /// Returns whether no shard is assigned.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.positions.is_empty()
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> Result<(), LogError> {
        self.log.ping().await
    }

    /// Replaces the assigned shards. Those that are read already under the same epoch keep their
    /// positions.
    pub fn assign(&mut self, assignment: &Assignment) {
        self.positions.retain(|shard, (epoch, _)| {
            let still = assignment.get(shard);
            still.is_some_and(|(assigned, _)| assigned == epoch)
        });
        for (shard, (epoch, position)) in assignment {
            let new = || (*epoch, position.clone());
            self.positions.entry(*shard).or_insert_with(new);
        }
    }

    /// Reads the next page, or finds that there is none.
    ///
    /// Shards that lag behind get every other read, so that neither the lagging ones nor the leading
    /// ones wait for the others.
    pub async fn read_next(&mut self) -> Result<ReadStep, ReadError> {
        let Some(last) = self.choose_target(ReadOrder::Lagging) else {
            return Ok(ReadStep::Idle(None));
        };
        let lagging = last.members.len() < self.positions.len();
        self.order = match self.order {
            ReadOrder::Lagging if lagging => ReadOrder::Leading,
            _ => ReadOrder::Lagging,
        };
        if self.order == ReadOrder::Leading
            && let Some(first) = self.choose_target(ReadOrder::Leading)
        {
            match self.read(first).await? {
                ReadStep::Idle(None) => {}
                step => return Ok(step),
            }
        }
        self.read(last).await
    }

    fn choose_target(&self, order: ReadOrder) -> Option<ReadTarget> {
        let shards: Vec<u16> = self.positions.keys().copied().collect();
        let positions: Vec<&Position> = self.positions.values().map(|(_, at)| at).collect();
        let (plan, members) = next_read(&positions, order, MAX_SHARED_GAP)?;
        let members = members.into_iter().map(|n| shards[n]).collect();
        Some(ReadTarget { plan, members })
    }

    async fn read(&mut self, target: ReadTarget) -> Result<ReadStep, ReadError> {
        let members = target.members;
        let window = match target.plan {
            ReadPlan::OpenWindow(window) => window,
            ReadPlan::NewWindow(from) => {
                // While nothing is new, the known watermark stays the tightest; else read it again.
                let window = match self.open_window(&from, from.low_id).await? {
                    Ok(window) => window,
                    Err(fenced) => return Ok(ReadStep::Batch(fenced)),
                };
                if !window.may_hold_events() {
                    return Ok(self.idle(&members, &window));
                }
                let low_id = self.log.low_watermark().await?;
                match self.open_window(&from, low_id).await? {
                    Ok(window) => window,
                    Err(fenced) => return Ok(ReadStep::Batch(fenced)),
                }
            }
        };
        self.read_page(window, &members).await
    }

    /// Opens a window up to now, or returns which shards another process has claimed.
    async fn open_window(
        &mut self,
        from: &Arc<LogBound>,
        low_id: i64,
    ) -> Result<Result<Window, EventBatch>, ReadError> {
        let claims = self.positions.iter();
        let claims: Vec<(u16, Epoch)> =
            claims.map(|(shard, (epoch, _))| (*shard, *epoch)).collect();
        let identity = &self.identity;
        let polled = self
            .log
            .poll(
                low_id,
                &identity.listener,
                identity.server_incarnation,
                &claims,
            )
            .await?;
        if !polled.same_incarnation {
            return Err(ReadError::ServerRestarted);
        }
        if !polled.bound.covers(from) {
            return Err(PositionAheadOfDatabase {
                listener: identity.listener.to_string(),
            }
            .into());
        }
        if !polled.fenced.is_empty() {
            let claims = claims.into_iter();
            let fenced = claims
                .filter(|(shard, _)| polled.fenced.contains(shard))
                .collect();
            self.positions
                .retain(|shard, _| !polled.fenced.contains(shard));
            return Ok(Err(EventBatch {
                window: self.window,
                bounds: None,
                events: Vec::new(),
                reached: Vec::new(),
                fenced,
                backlog: self.reported_backlog,
            }));
        }
        Ok(Ok(Window {
            from: Arc::clone(from),
            to: Arc::new(polled.bound),
        }))
    }

    fn idle(&mut self, members: &[u16], window: &Window) -> ReadStep {
        self.advance(members, |_| Position::at(Arc::clone(&window.to)));
        let xmax = window.to.snapshot.xmax();
        let backlog = self.backlog(window.to.high_id);
        let due = xmax >= self.last_reported.0.saturating_add(IDLE_XIDS)
            && self.last_reported.1.elapsed() >= IDLE_EVERY;
        // The shards furthest behind may have been released.
        if !due && backlog == self.reported_backlog {
            return ReadStep::Idle(None);
        }
        self.reported_backlog = backlog;
        self.last_reported = (xmax, Instant::now());
        ReadStep::Idle(Some(EventBatch {
            window: self.window,
            bounds: None,
            events: Vec::new(),
            reached: self.reached(members),
            fenced: Vec::new(),
            backlog,
        }))
    }

    async fn read_page(&mut self, window: Window, members: &[u16]) -> Result<ReadStep, ReadError> {
        if self.open.as_ref() != Some(&window) {
            self.window += 1;
            self.open = Some(window.clone());
        }
        let positions = &self.positions;
        let last_id = |shard: &u16| positions.get(shard).map_or(0, |(_, at)| at.last_id);
        let after = members.iter().map(last_id).min().unwrap_or(0);
        let filter = ShardFilter {
            shards: members,
            shard_count: self.identity.shards,
        };
        let listener = &*self.identity.listener;
        let page = self.log.read_page(&window, after, filter, listener).await?;
        let mut events = page.events;
        let reached_id = page.reached.unwrap_or(after);
        events.retain(|logged| {
            let shard = shard_of(logged.event.hash, self.identity.shards);
            logged.event.log_id > last_id(&shard)
        });
        self.advance(members, |now| {
            if page.last {
                Position::at(Arc::clone(&window.to))
            } else {
                Position::within(&window, reached_id.max(now.last_id))
            }
        });
        self.last_reported = (window.to.snapshot.xmax(), Instant::now());
        let backlog = self.backlog(window.to.high_id);
        self.reported_backlog = backlog;
        Ok(ReadStep::Batch(EventBatch {
            window: self.window,
            reached: self.reached(members),
            fenced: Vec::new(),
            bounds: Some(window),
            events,
            backlog,
        }))
    }

    /// Returns an upper bound of the events up to an id that are still to be read for some shard.
    fn backlog(&self, high_id: i64) -> u64 {
        let behind = self.positions.values().map(|(_, at)| match at.to {
            Some(_) => at.last_id,
            None => at.from.high_id,
        });
        let furthest_behind = behind.min().unwrap_or(high_id);
        u64::try_from(high_id.saturating_sub(furthest_behind)).unwrap_or(0)
    }

    fn advance(&mut self, members: &[u16], to: impl Fn(&Position) -> Position) {
        for shard in members {
            if let Some((_, position)) = self.positions.get_mut(shard) {
                *position = to(position);
            }
        }
    }

    fn reached(&self, members: &[u16]) -> Vec<(u16, Epoch, Position)> {
        let of = |shard: &u16| {
            let (epoch, position) = self.positions.get(shard)?;
            Some((*shard, *epoch, position.clone()))
        };
        members.iter().filter_map(of).collect()
    }
}

/// Returns the shard of a key, by the hash of tenant, entity and key.
#[must_use]
pub fn shard_of(hash: u32, shards: u16) -> u16 {
    let shard = hash % u32::from(shards.max(1));
    // Less than the number of shards.
    u16::try_from(shard).unwrap_or_default()
}
