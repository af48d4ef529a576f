//! Reading of the change log for the history: the reader of deliveries once more, from positions of its
//! own.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use ::queue::JobQueue;
use backoff::Backoff;
use sqlx::PgPool;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::position::{self, PositionOwner};
use crate::capture::change_log::{ChangeLog, LogError};
use crate::capture::poll_loop::poll_loop;
use crate::capture::position::Position;
use crate::capture::reader::{Assignment, Epoch, EventBatch, LogReader, ReadError, ReaderIdentity};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Pages read ahead.
const PAGES_AHEAD: usize = 1;

/// Backoff of a position that cannot be read.
const LOAD_RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Pause before a reader starts again that has failed.
const RESTART_DELAY: Duration = Duration::from_secs(5);

/// The log of one incarnation of the server, and where its deliveries go.
#[derive(Clone, Debug)]
pub(crate) struct LogSource {
    /// The log.
    pub(crate) log: ChangeLog,
    /// The server incarnation in which shards are claimed.
    pub(crate) incarnation: Uuid,
    /// The job queue.
    pub(crate) queue: Arc<dyn JobQueue>,
}

/// A shard that this process owns.
#[derive(Debug)]
struct OwnedShard {
    epoch: Epoch,
    /// Up to where it is read; nothing until its stored position is known.
    position: Option<Position>,
}

/// A reader that runs.
#[derive(Debug)]
struct Reader {
    batches: mpsc::Receiver<EventBatch>,
    assignment: watch::Sender<Assignment>,
    task: AbortOnDropHandle<Result<(), ReadError>>,
}

/// Reading for the owned shards.
#[derive(Debug)]
pub(super) struct Reading {
    owner: PositionOwner,
    pool: PgPool,
    metrics: Metrics,
    max_poll_interval: Duration,
    source: Option<Arc<LogSource>>,
    owned: BTreeMap<u16, OwnedShard>,
    loads: JoinSet<(u16, Epoch, Position)>,
    reader: Option<Reader>,
}

impl Reading {
    /// Reads for no shard yet, through connections of its own.
    pub(super) fn new(
        owner: PositionOwner,
        pool: PgPool,
        metrics: Metrics,
        max_poll_interval: Duration,
    ) -> Self {
        Self {
            owner,
            pool,
            metrics,
            max_poll_interval,
            source: None,
            owned: BTreeMap::new(),
            loads: JoinSet::new(),
            reader: None,
        }
    }

    /// Returns the log that is read, once shards were assigned.
    pub(super) const fn source(&self) -> Option<&Arc<LogSource>> {
        self.source.as_ref()
    }

    /// Returns whether a shard is owned.
    pub(super) fn owns(&self, shard: u16) -> bool {
        self.owned.contains_key(&shard)
    }

    /// Returns whether no shard is owned.
    pub(super) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    /// Reads a shard that was claimed from now on, from its stored position.
    pub(super) fn assign(&mut self, shard: u16, epoch: Epoch, source: Arc<LogSource>) {
        let is_same = self
            .source
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &source));
        if !is_same {
            // All shards are claimed again in another incarnation.
            self.reader = None;
            self.owned.clear();
            self.source = Some(source);
        }
        self.stop_reading(shard);
        let unread = OwnedShard {
            epoch,
            position: None,
        };
        self.owned.insert(shard, unread);
        let (pool, owner) = (self.pool.clone(), self.owner.clone());
        self.loads
            .spawn(async move { (shard, epoch, load(&pool, &owner, shard).await) });
    }

    /// Stops reading a shard, if it is owned under this epoch.
    pub(super) fn release(&mut self, shard: u16, epoch: Epoch) {
        if self.owned.get(&shard).is_some_and(|it| it.epoch == epoch) {
            self.owned.remove(&shard);
            self.stop_reading(shard);
        }
    }

    fn stop_reading(&self, shard: u16) {
        if let Some(reader) = &self.reader {
            reader
                .assignment
                .send_modify(|all| drop(all.remove(&shard)));
        }
    }

    /// Waits for the next batch, and sees to positions and to readers that end meanwhile. Safe to cancel.
    pub(super) async fn next(&mut self) -> EventBatch {
        loop {
            let batches = async {
                match &mut self.reader {
                    Some(reader) => reader.batches.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(loaded) = self.loads.join_next(), if !self.loads.is_empty() => {
                    if let Ok((shard, epoch, position)) = loaded {
                        self.start(shard, epoch, position);
                    }
                }
                batch = batches => match batch {
                    Some(batch) => {
                        self.record(&batch);
                        return batch;
                    }
                    None => self.reader_ended().await,
                },
            }
        }
    }

    fn start(&mut self, shard: u16, epoch: Epoch, position: Position) {
        let Some(owned) = self.owned.get_mut(&shard) else {
            return;
        };
        if owned.epoch != epoch {
            return;
        }
        owned.position = Some(position.clone());
        match &self.reader {
            Some(reader) => reader
                .assignment
                .send_modify(|all| drop(all.insert(shard, (epoch, position)))),
            None => self.start_reader(Duration::ZERO),
        }
    }

    /// Starts a reader for all shards whose positions are known.
    fn start_reader(&mut self, delay: Duration) {
        let Some(source) = &self.source else {
            return;
        };
        let identity = ReaderIdentity {
            listener: Arc::clone(&self.owner.listener),
            shards: self.owner.shards,
            server_incarnation: source.incarnation,
        };
        let log = source.log.with_pool(self.pool.clone());
        let reader = LogReader::new(log, identity);
        let known = self.owned.iter().filter_map(|(shard, owned)| {
            let position = owned.position.clone()?;
            Some((*shard, (owned.epoch, position)))
        });
        let (assignment, mut assigned) = watch::channel(known.collect::<Assignment>());
        assigned.mark_changed();
        let (send, batches) = mpsc::channel(PAGES_AHEAD);
        // The health of the process is that of its deliveries.
        let told = (Arc::new(Health::default()), self.metrics.clone());
        let (longest, forever) = (self.max_poll_interval, CancellationToken::new());
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            poll_loop(
                (reader, || ready(())),
                assigned,
                send,
                told,
                longest,
                forever,
            )
            .await
        });
        self.reader = Some(Reader {
            batches,
            assignment,
            task: AbortOnDropHandle::new(task),
        });
    }

    /// Records how far a batch goes, and which shards are others' now.
    fn record(&mut self, batch: &EventBatch) {
        for (shard, epoch, position) in &batch.reached {
            if let Some(owned) = self.owned.get_mut(shard)
                && owned.epoch == *epoch
            {
                owned.position = Some(position.clone());
            }
        }
        for (shard, epoch) in &batch.fenced {
            self.release(*shard, *epoch);
        }
    }

    /// Goes on after the end of the reader.
    async fn reader_ended(&mut self) {
        let Some(reader) = &mut self.reader else {
            return;
        };
        // Finished: it has dropped its sender.
        let ended = (&mut reader.task).await;
        self.reader = None;
        match ended {
            // Its shards are claimed again.
            Ok(Err(ReadError::ServerRestarted)) => self.owned.clear(),
            Ok(Err(ReadError::Ahead(_))) => {
                tracing::warn!(
                    "the history is ahead of this database, which was restored: it goes on with all that the log holds"
                );
                for owned in self.owned.values_mut() {
                    owned.position = Some(Position::genesis());
                }
                self.start_reader(RESTART_DELAY);
            }
            Ok(Ok(())) => self.start_reader(RESTART_DELAY),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read the change log for the history; retrying");
                self.start_reader(RESTART_DELAY);
            }
            Err(error) => {
                tracing::error!(%error, "the reader of the history panicked");
                self.start_reader(RESTART_DELAY);
            }
        }
    }
}

/// Loads the position of a shard, however long the database is away.
async fn load(pool: &PgPool, owner: &PositionOwner, shard: u16) -> Position {
    let mut backoff = LOAD_RETRY;
    loop {
        match position::load(pool, owner, shard).await {
            Ok(position) => return position,
            Err(LogError::Database(error)) => {
                tracing::debug!(shard, %error, "cannot read the position of the history; retrying");
            }
            Err(error) => {
                tracing::warn!(shard, %error, "the history goes on with all that the log holds");
                return Position::genesis();
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
