//! Follows the log: chooses the stretch to read, pages through it, and says where each shard
//! stands after every page.
//!
//! A reader holds positions in memory only. What is behind for good is the ledger's to say.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::log::{Log, LogError, Logged, Tenure};
use super::position::{Mark, Position, Read, Window, next_read};

/// While nothing is read, a position is passed on for saving only after this many
/// transactions, so that an idle listener seldom writes but does not hold back retention.
const IDLE_XIDS: u64 = 1000;

/// And only this often.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// Why reading cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Another process has claimed the shards.
    #[error(
        "another process has taken over this listener, so this one stops; run two listeners under different names to run both"
    )]
    Fenced,
    /// The server recovered from a crash or was promoted.
    #[error("Postgres has recovered from a crash, or another server has taken its place")]
    NewLife,
    /// The database has gone back in time under a running listener.
    #[error(transparent)]
    Ahead(#[from] Ahead),
}

/// A position that this database has not reached yet.
#[derive(Debug, thiserror::Error)]
#[error(
    "listener {listener} has read further than this database has come, so the database was restored from a backup \
     or replaced: nothing was changed. Run `observer-listener rebase` to go on with all that the log holds, or \
     `observer-listener rebase --resume now` to go on with what comes next"
)]
pub struct Ahead {
    /// The listener.
    pub listener: String,
}

/// What one page brought.
#[derive(Debug)]
pub struct Batch {
    /// Number of the window, growing.
    pub window: u64,
    /// The window; absent when only positions moved.
    pub bounds: Option<Window>,
    /// Events for the shards below, in id order.
    pub events: Vec<Logged>,
    /// Where shards stand once these events are behind: index and position.
    pub reached: Vec<(usize, Position)>,
    /// Upper bound of the events that are still to be read.
    pub backlog: u64,
}

/// What came of a step.
#[derive(Debug)]
pub enum Step {
    /// Something to pass on; more may follow at once.
    Batch(Batch),
    /// Nothing new; `Some` when the positions are worth saving all the same.
    Quiet(Option<Batch>),
}

/// Reads for a fixed set of shards.
#[derive(Debug)]
pub struct Reader {
    log: Log,
    tenure: Tenure,
    positions: Vec<Position>,
    window: u64,
    open: Option<Window>,
    passed_on: (u64, Instant),
}

impl Reader {
    /// Begins at the given positions, one a shard; the tenure is over all shards of the listener.
    #[must_use]
    pub fn new(log: Log, tenure: Tenure, positions: Vec<Position>) -> Self {
        let xmax = positions
            .iter()
            .map(|position| position.from.snapshot.xmax())
            .min()
            .unwrap_or(0);
        Self {
            log,
            tenure,
            positions,
            window: 0,
            open: None,
            passed_on: (xmax, Instant::now()),
        }
    }

    /// Reads the next page, or finds that there is none.
    pub async fn step(&mut self) -> Result<Step, ReadError> {
        let Some((read, members)) = next_read(&self.positions) else {
            return Ok(Step::Quiet(None));
        };
        let window = match read {
            Read::Known(window) => window,
            Read::Fresh(from) => {
                // Without news, the old floor stays the best one; with news, a new one is due.
                let quiet = self.window_to_now(&from, from.floor).await?;
                if !quiet.may_hold_events() {
                    return Ok(self.quiet(&members, &quiet));
                }
                let floor = self.log.floor().await?;
                self.window_to_now(&from, floor).await?
            }
        };
        self.page(window, &members).await
    }

    /// The window that ends at this moment, unless it is no longer this reader's to read.
    async fn window_to_now(&self, from: &Arc<Mark>, floor: i64) -> Result<Window, ReadError> {
        let look = self.log.look(floor, &self.tenure).await?;
        if !look.owned {
            return Err(ReadError::Fenced);
        }
        if !look.alive {
            return Err(ReadError::NewLife);
        }
        if !look.mark.snapshot.covers(&from.snapshot) || look.mark.ceiling < from.ceiling {
            return Err(Ahead {
                listener: self.tenure.listener.to_string(),
            }
            .into());
        }
        Ok(Window {
            from: Arc::clone(from),
            to: Arc::new(look.mark),
        })
    }

    fn quiet(&mut self, members: &[usize], window: &Window) -> Step {
        for n in members {
            self.positions[*n] = Position::at(Arc::clone(&window.to));
        }
        let xmax = window.to.snapshot.xmax();
        if xmax < self.passed_on.0.saturating_add(IDLE_XIDS)
            || self.passed_on.1.elapsed() < IDLE_EVERY
        {
            return Step::Quiet(None);
        }
        self.passed_on = (xmax, Instant::now());
        Step::Quiet(Some(Batch {
            window: self.window,
            bounds: None,
            events: Vec::new(),
            reached: members
                .iter()
                .map(|n| (*n, self.positions[*n].clone()))
                .collect(),
            backlog: 0,
        }))
    }

    async fn page(&mut self, window: Window, members: &[usize]) -> Result<Step, ReadError> {
        if self.open.as_ref() != Some(&window) {
            self.window += 1;
            self.open = Some(window.clone());
        }
        let after = members
            .iter()
            .map(|n| self.positions[*n].last_id)
            .min()
            .unwrap_or(0);
        let page = self.log.page(&window, after).await?;
        let shards = self.positions.len();
        let mut events = page.events;
        let reached_id = events.last().map_or(after, |last| last.event.log_id);
        let positions = &self.positions;
        events.retain(|logged| {
            let shard = shard_of(logged.event.hash, shards);
            members.contains(&shard) && logged.event.log_id > positions[shard].last_id
        });
        for n in members {
            self.positions[*n] = if page.last {
                Position::at(Arc::clone(&window.to))
            } else {
                Position::within(&window, reached_id.max(self.positions[*n].last_id))
            };
        }
        self.passed_on = (window.to.snapshot.xmax(), Instant::now());
        let backlog = if page.last {
            0
        } else {
            window.to.ceiling.saturating_sub(reached_id).unsigned_abs()
        };
        Ok(Step::Batch(Batch {
            window: self.window,
            reached: members
                .iter()
                .map(|n| (*n, self.positions[*n].clone()))
                .collect(),
            bounds: Some(window),
            events,
            backlog,
        }))
    }
}

/// The shard that owns a key, by the hash of tenant, entity and key.
#[must_use]
pub fn shard_of(hash: u32, shards: usize) -> usize {
    let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
    (hash % shards) as usize
}
