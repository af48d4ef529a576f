//! Follows what changes, for the cache of this process.
//!
//! [`Follower::catch_up`] is called between the reading of events and their delivery, so that a change is
//! known before any event that was committed after it is delivered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::commands::{self, Commands};
use super::invalidation::{Change, Invalidations, Progress, Scope};
use super::{CacheNeeds, ResultCache};
use crate::capture::change_log::LogError;
use crate::capture::changed_keys::{ChangedKeys, ChangedRows};

/// Interval at which it reads without being asked to.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shortest interval, for a log that keeps little.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Timeout of a read.
const TIMEOUT: Duration = Duration::from_secs(3);

/// After so long without a read, results that depend on an entity are dropped in place of reading what was missed.
const MAX_GAP: Duration = Duration::from_mins(1);

/// Why it could not be read what has changed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What was dropped by hand could not be read.
    #[error("cannot read what was dropped by hand: {}", ::queue::describe_error(.0))]
    Commands(#[from] sqlx::Error),
}

/// Returns the cache, and what it needs now.
struct Needs(Box<dyn Fn() -> (ResultCache, Arc<CacheNeeds>) + Send + Sync>);

impl std::fmt::Debug for Needs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Needs")
    }
}

/// Follows what changes.
#[derive(Debug)]
pub(crate) struct Follower {
    /// Connections of its own, so that it waits for nothing else.
    pool: PgPool,
    listener: Arc<str>,
    /// How long the log keeps what every listener has behind it.
    retention: Duration,
    /// Returns the cache, and what it needs now.
    needs: Needs,
    /// Number of reads that have begun.
    begun: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing until a cache is needed.
    changed: Option<ChangedKeys>,
    /// The last read that succeeded, by its number, and when it began.
    succeeded: Option<(u64, Instant)>,
    last_command: i64,
    entities: BTreeSet<Arc<str>>,
}

impl Follower {
    /// Creates one for the log of a listener, which keeps events for at least so long.
    pub(crate) fn new(
        pool: PgPool,
        (listener, retention): (Arc<str>, Duration),
        needs: impl Fn() -> (ResultCache, Arc<CacheNeeds>) + Send + Sync + 'static,
    ) -> Self {
        Self {
            pool,
            listener,
            retention,
            needs: Needs(Box::new(needs)),
            begun: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Reads up to now: all that was committed before this call is known afterwards, or the results that
    /// depend on it are not used.
    pub(crate) async fn catch_up(&self) {
        let (cache, needs) = (self.needs.0)();
        // Without entities it need only have begun.
        let begins = needs.has_cache && !cache.update(|known| known.has_begun());
        if begins || !needs.entities.is_empty() {
            self.read(&cache, &needs.entities, false).await;
        }
    }

    /// Reads at an interval until `stop`, so that results which are dropped by hand are known too.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let every = INTERVAL.min(self.retention / 8).max(MIN_INTERVAL);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reading = async {
            loop {
                ticks.tick().await;
                let (cache, needs) = (self.needs.0)();
                if needs.has_cache {
                    self.read(&cache, &needs.entities, true).await;
                }
            }
        };
        stop.run_until_cancelled(reading).await;
        let (cache, _) = (self.needs.0)();
        cache.update(|known| *known = Invalidations::default());
    }

    /// Reads once, unless another read that began after this call does.
    async fn read(&self, cache: &ResultCache, entities: &BTreeSet<Arc<str>>, with_commands: bool) {
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut state = self.state.lock().await;
        let is_done = state.succeeded.is_some_and(|(number, _)| number >= wanted);
        if is_done && !with_commands && state.entities == *entities {
            return;
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let begun = Instant::now();
        let read = timeout(
            TIMEOUT,
            self.try_read(cache, &mut state, entities, with_commands),
        )
        .await;
        let error = match read {
            Ok(Ok(())) => {
                state.succeeded = Some((number, begun));
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(
            error,
            "cannot read what has changed; results of the cache that depend on it are not used"
        );
        cache.update(Invalidations::fall_behind);
        // What takes too long once takes longer the next time, so what was missed is not read.
        state.succeeded = None;
    }

    async fn try_read(
        &self,
        cache: &ResultCache,
        state: &mut State,
        entities: &BTreeSet<Arc<str>>,
        with_commands: bool,
    ) -> Result<(), FollowError> {
        let Some(changed) = &mut state.changed else {
            return self.begin(cache, state, entities).await;
        };
        if state.entities != *entities {
            state.entities.clone_from(entities);
            cache.update(|known| known.follow(entities.iter().cloned()));
        }
        let is_late = state
            .succeeded
            .is_none_or(|(_, at)| at.elapsed() > MAX_GAP.min(self.retention / 2));
        let names: Vec<String> = entities.iter().map(ToString::to_string).collect();
        // Of what is skipped nothing is read.
        let names = if is_late { Vec::new() } else { names };
        let rows = changed.read_next(&names).await?;
        let progress = Progress::of(changed.seen());
        match rows {
            ChangedRows::Lost => {
                state.changed = None;
                cache.update(|known| *known = Invalidations::default());
                return Ok(());
            }
            ChangedRows::Keys(keys) if !is_late => {
                cache.record_invalidations("row", keys.len());
                let rows = keys
                    .into_iter()
                    .map(|(entity, key)| (Change::Row { entity, key }, progress));
                cache.update(|known| known.add(progress, rows));
            }
            ChangedRows::Keys(_) | ChangedRows::Unknown => {
                cache.update(|known| known.skip_to(progress));
            }
        }
        if with_commands {
            let commands = commands::read_after(&self.pool, &self.listener, state.last_command);
            obey(cache, state, commands.await?);
        }
        Ok(())
    }

    async fn begin(
        &self,
        cache: &ResultCache,
        state: &mut State,
        entities: &BTreeSet<Arc<str>>,
    ) -> Result<(), FollowError> {
        let listener = Arc::clone(&self.listener);
        let changed = ChangedKeys::open(self.pool.clone(), listener, self.retention).await?;
        let Some(changed) = changed else {
            return Ok(());
        };
        let commands = commands::read_after(&self.pool, &self.listener, 0).await?;
        let progress = Progress::of(changed.seen());
        let begun = Invalidations::begin(changed.life(), progress, entities.iter().cloned());
        cache.update(|known| *known = begun);
        obey(cache, state, commands);
        state.entities.clone_from(entities);
        state.changed = Some(changed);
        Ok(())
    }
}

fn obey(cache: &ResultCache, state: &mut State, commands: Commands) {
    state.last_command = commands.last;
    cache.record_invalidations("command", commands.changes.len());
    cache.update(|known| {
        let progress = known.progress();
        // Of so many it is not worth the while to know each.
        let changes = if commands.more {
            vec![(Change::Scope(Scope::default()), progress)]
        } else {
            commands.changes
        };
        known.add(progress, changes);
    });
}
