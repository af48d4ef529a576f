//! Follows the log: chooses the stretch to read, pages through it, and says where each shard
//! stands after every page.
//!
//! A reader holds positions in memory only. What is behind for good is the ledger's to say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::change_log::{Log, LogError, Logged, MOST_LOOKED_AT, Part};
use super::position::{Mark, Position, Read, Turn, Window, next_read};

/// While nothing is read, a position is passed on for saving only after this many
/// transactions, so that an idle listener seldom writes but does not hold back retention.
const IDLE_XIDS: u64 = 1000;

/// And only this often.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// Ids between two shards in one window up to which they are read for together: some pages.
const APART: i64 = 4 * MOST_LOOKED_AT;

/// Why reading cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
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
     or replaced: nothing was changed. Run `observer-listener reset-position` to go on with all that the log holds, or \
     `observer-listener reset-position --to latest` to go on with what comes next"
)]
pub struct Ahead {
    /// The listener.
    pub listener: String,
}

/// The epoch under which a shard is read.
pub type Epoch = i64;

/// What is to be read: for each shard the epoch of its claim, and where to begin if it is new.
pub type Assignment = BTreeMap<u16, (Epoch, Position)>;

/// What one page brought.
#[derive(Debug)]
pub struct Batch {
    /// Number of the window, growing.
    pub window: u64,
    /// The window; absent when only positions moved.
    pub bounds: Option<Window>,
    /// Events for the shards below, in id order.
    pub events: Vec<Logged>,
    /// Where shards stand once these events are behind: shard, epoch, position.
    pub reached: Vec<(u16, Epoch, Position)>,
    /// Shards, with the epoch under which they were read, that another process has claimed since.
    pub fenced: Vec<(u16, Epoch)>,
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

/// Whose log is read, and in which life of the server the claims were made.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The listener.
    pub listener: Arc<str>,
    /// How many shards it has.
    pub shards: u16,
    /// The server's life.
    pub life: Uuid,
}

/// Reads for the shards of the moment.
#[derive(Debug)]
pub struct Reader {
    log: Log,
    owner: Owner,
    positions: Assignment,
    window: u64,
    open: Option<Window>,
    passed_on: (u64, Instant),
    /// What was said last to be left to read.
    told_backlog: u64,
    turn: Turn,
}

/// One stretch and those for whom it is read.
struct Stretch {
    read: Read,
    members: Vec<u16>,
}

impl Reader {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(log: Log, owner: Owner) -> Self {
        Self {
            log,
            owner,
            positions: Assignment::new(),
            window: 0,
            open: None,
            passed_on: (0, Instant::now()),
            told_backlog: 0,
            turn: Turn::Last,
        }
    }

    /// Whether there is nothing to read for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.positions.is_empty()
    }

    /// Finds out whether the log's database answers.
    pub async fn look_for_database(&self) -> Result<(), LogError> {
        self.log.look_for_database().await
    }

    /// Reads for these shards from now on. Those that it reads already under the same epoch stay
    /// where they are.
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
    /// Shards that stand behind the others get every other step, so that neither those wait for
    /// these nor the other way round.
    pub async fn step(&mut self) -> Result<Step, ReadError> {
        let Some(last) = self.choose(Turn::Last) else {
            return Ok(Step::Quiet(None));
        };
        let apart = last.members.len() < self.positions.len();
        self.turn = match self.turn {
            Turn::Last if apart => Turn::First,
            _ => Turn::Last,
        };
        if self.turn == Turn::First
            && let Some(first) = self.choose(Turn::First)
        {
            match self.read(first).await? {
                Step::Quiet(None) => {}
                step => return Ok(step),
            }
        }
        self.read(last).await
    }

    fn choose(&self, turn: Turn) -> Option<Stretch> {
        let shards: Vec<u16> = self.positions.keys().copied().collect();
        let positions: Vec<&Position> = self.positions.values().map(|(_, at)| at).collect();
        let (read, members) = next_read(&positions, turn, APART)?;
        let members = members.into_iter().map(|n| shards[n]).collect();
        Some(Stretch { read, members })
    }

    async fn read(&mut self, stretch: Stretch) -> Result<Step, ReadError> {
        let members = stretch.members;
        let window = match stretch.read {
            Read::Known(window) => window,
            Read::Fresh(from) => {
                // Without news, the old floor stays the best one; with news, a new one is due.
                let quiet = match self.window_to_now(&from, from.floor).await? {
                    Ok(window) => window,
                    Err(fenced) => return Ok(Step::Batch(fenced)),
                };
                if !quiet.may_hold_events() {
                    return Ok(self.quiet(&members, &quiet));
                }
                let floor = self.log.floor().await?;
                match self.window_to_now(&from, floor).await? {
                    Ok(window) => window,
                    Err(fenced) => return Ok(Step::Batch(fenced)),
                }
            }
        };
        self.page(window, &members).await
    }

    /// The window that ends at this moment, or which shards are no longer this reader's to read.
    async fn window_to_now(
        &mut self,
        from: &Arc<Mark>,
        floor: i64,
    ) -> Result<Result<Window, Batch>, ReadError> {
        let claims = self.positions.iter();
        let claims: Vec<(u16, Epoch)> =
            claims.map(|(shard, (epoch, _))| (*shard, *epoch)).collect();
        let owner = &self.owner;
        let look = self
            .log
            .look(floor, &owner.listener, owner.life, &claims)
            .await?;
        if !look.alive {
            return Err(ReadError::NewLife);
        }
        if !look.mark.snapshot.covers(&from.snapshot) || look.mark.ceiling < from.ceiling {
            return Err(Ahead {
                listener: owner.listener.to_string(),
            }
            .into());
        }
        if !look.fenced.is_empty() {
            let claims = claims.into_iter();
            let fenced = claims
                .filter(|(shard, _)| look.fenced.contains(shard))
                .collect();
            self.positions
                .retain(|shard, _| !look.fenced.contains(shard));
            return Ok(Err(Batch {
                window: self.window,
                bounds: None,
                events: Vec::new(),
                reached: Vec::new(),
                fenced,
                backlog: self.told_backlog,
            }));
        }
        Ok(Ok(Window {
            from: Arc::clone(from),
            to: Arc::new(look.mark),
        }))
    }

    fn quiet(&mut self, members: &[u16], window: &Window) -> Step {
        self.advance(members, |_| Position::at(Arc::clone(&window.to)));
        let xmax = window.to.snapshot.xmax();
        let backlog = self.backlog(window.to.ceiling);
        let due = xmax >= self.passed_on.0.saturating_add(IDLE_XIDS)
            && self.passed_on.1.elapsed() >= IDLE_EVERY;
        // Those furthest behind may have gone to others.
        if !due && backlog == self.told_backlog {
            return Step::Quiet(None);
        }
        self.told_backlog = backlog;
        self.passed_on = (xmax, Instant::now());
        Step::Quiet(Some(Batch {
            window: self.window,
            bounds: None,
            events: Vec::new(),
            reached: self.reached(members),
            fenced: Vec::new(),
            backlog,
        }))
    }

    async fn page(&mut self, window: Window, members: &[u16]) -> Result<Step, ReadError> {
        if self.open.as_ref() != Some(&window) {
            self.window += 1;
            self.open = Some(window.clone());
        }
        let positions = &self.positions;
        let last_id = |shard: &u16| positions.get(shard).map_or(0, |(_, at)| at.last_id);
        let after = members.iter().map(last_id).min().unwrap_or(0);
        let part = Part {
            shards: members,
            of: self.owner.shards,
        };
        let page = self.log.page(&window, after, part).await?;
        let mut events = page.events;
        let reached_id = page.reached.unwrap_or(after);
        events.retain(|logged| {
            let shard = shard_of(logged.event.hash, self.owner.shards);
            logged.event.log_id > last_id(&shard)
        });
        self.advance(members, |now| {
            if page.last {
                Position::at(Arc::clone(&window.to))
            } else {
                Position::within(&window, reached_id.max(now.last_id))
            }
        });
        self.passed_on = (window.to.snapshot.xmax(), Instant::now());
        let backlog = self.backlog(window.to.ceiling);
        self.told_backlog = backlog;
        Ok(Step::Batch(Batch {
            window: self.window,
            reached: self.reached(members),
            fenced: Vec::new(),
            bounds: Some(window),
            events,
            backlog,
        }))
    }

    /// Upper bound of the events up to an id that are still to be read for some shard.
    fn backlog(&self, ceiling: i64) -> u64 {
        let behind = self.positions.values().map(|(_, at)| match at.to {
            Some(_) => at.last_id,
            None => at.from.ceiling,
        });
        let furthest_behind = behind.min().unwrap_or(ceiling);
        u64::try_from(ceiling.saturating_sub(furthest_behind)).unwrap_or(0)
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

/// The shard that owns a key, by the hash of tenant, entity and key.
#[must_use]
pub fn shard_of(hash: u32, shards: u16) -> u16 {
    let shard = hash % u32::from(shards.max(1));
    // Less than the number of shards.
    u16::try_from(shard).unwrap_or_default()
}
