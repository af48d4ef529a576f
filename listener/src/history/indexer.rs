//! Indexer: the task that writes the documents of a process's shards, and what is reported of deliveries
//! anywhere in the process.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use crds::pod_status::SearchReport;
use search::SearchIndex;
use sqlx::PgPool;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::compose::Composer;
use super::holding::{Holding, ShardPosition};
use super::position::{self, Gaps, PositionOwner};
use super::reading::{LogSource, Reading};
use super::settle::Sources;
use super::sweep::Sweeper;
use super::upkeep::Upkeep;
use super::writer::{self, Writer};
use crate::capture::reader::{Epoch, EventBatch};
use crate::delivery::report::DeliveryReporter;
use crate::observers::Observers;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusReporter;

/// Time between two looks for reports and for documents to write.
const FLUSH_INTERVAL: Duration = Duration::from_millis(25);

/// Time between two saves of positions, and two updates of metrics and status.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of reports that are taken at once.
const MAX_REPORTS: usize = 4096;

/// How long the end of a session may be delayed by documents that are still to be written.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// A command to the indexer.
#[derive(Debug)]
pub(super) enum HistoryCommand {
    /// A shard was claimed.
    Assign {
        shard: u16,
        epoch: Epoch,
        /// Whether its last owner has not released it, so that reports of it may be lost.
        is_taken_over: bool,
        source: Arc<LogSource>,
    },
    /// A shard is not owned any more.
    Release { shard: u16, epoch: Epoch },
}

/// What an indexer works with and reports to.
#[derive(Debug)]
pub(super) struct IndexerConfig {
    pub(super) owner: PositionOwner,
    pub(super) composer: Composer,
    pub(super) index: Arc<dyn SearchIndex>,
    /// Connections of its own to the listener's database, for reads of the log and for what is small.
    pub(super) pool: PgPool,
    pub(super) observers: watch::Receiver<Arc<Observers>>,
    pub(super) deliveries: DeliveryReporter,
    pub(super) max_poll_interval: Duration,
    /// Age at which documents are removed.
    pub(super) retention: Duration,
    pub(super) metrics: Metrics,
    pub(super) reporter: Arc<StatusReporter>,
}

/// The indexer of a process.
#[derive(Debug)]
pub(super) struct Indexer {
    owner: PositionOwner,
    pool: PgPool,
    observers: watch::Receiver<Arc<Observers>>,
    deliveries: DeliveryReporter,
    metrics: Metrics,
    reporter: Arc<StatusReporter>,
    has_outcomes: bool,
    holding: Holding,
    reading: Reading,
    writer: Writer,
    sweeper: Sweeper,
    upkeep: Upkeep,
    /// Saves of positions; each returns the positions that could not be saved.
    saves: JoinSet<Vec<ShardPosition>>,
    /// When the last event occurred that was read, while more are to be read.
    behind_since: Option<DateTime<Utc>>,
}

impl Indexer {
    /// Creates an indexer without shards.
    pub(super) fn new(config: IndexerConfig) -> Self {
        let search = &config.metrics.search;
        Self {
            has_outcomes: config.composer.has_outcomes(),
            holding: Holding::new(config.composer, config.owner.shards),
            reading: Reading::new(
                config.owner.clone(),
                config.pool.clone(),
                config.metrics.clone(),
                config.max_poll_interval,
            ),
            writer: Writer::new(Arc::clone(&config.index), search.clone()),
            sweeper: Sweeper::new(Arc::clone(&config.index), search.clone()),
            upkeep: Upkeep::new(
                config.index,
                config.pool.clone(),
                Arc::clone(&config.owner.listener),
                config.retention,
            ),
            owner: config.owner,
            pool: config.pool,
            observers: config.observers,
            deliveries: config.deliveries,
            metrics: config.metrics,
            reporter: config.reporter,
            saves: JoinSet::new(),
            behind_since: None,
        }
    }

    /// Writes documents until nobody sends commands any more, and then what is at hand.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<HistoryCommand>) {
        let mut flush_tick = interval(FLUSH_INTERVAL);
        let mut save_tick = interval(SAVE_INTERVAL);
        flush_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        save_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.writer.start(Vec::new(), None);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                batch = self.reading.next(), if self.holding.has_room() => self.accept(batch),
                Some(call) = self.writer.next() => self.written(call),
                Some(swept) = self.sweeper.next() => self.sweeper.ended(swept, Instant::now()),
                Some(gaps) = self.upkeep.next() => self.kept_up(gaps),
                Some(saved) = self.saves.join_next() => self.saved(saved),
                _ = flush_tick.tick() => self.flush(false),
                _ = save_tick.tick() => self.save(),
            }
        }
        if timeout(FINISH_TIMEOUT, self.finish()).await.is_err() {
            tracing::warn!(
                "some documents could not be written before the end; they are written by the next owners of the shards"
            );
        }
        self.reporter.set_search(None);
    }

    fn handle_command(&mut self, command: HistoryCommand) {
        match command {
            HistoryCommand::Assign {
                shard,
                epoch,
                is_taken_over,
                source,
            } => {
                self.reading.assign(shard, epoch, source);
                if self.has_outcomes && (is_taken_over || shard == 0) {
                    self.sweeper.needed(Instant::now());
                }
            }
            HistoryCommand::Release { shard, epoch } => self.reading.release(shard, epoch),
        }
    }

    fn accept(&mut self, batch: EventBatch) {
        let last = batch.events.last().map(|record| record.event.occurred_at);
        self.behind_since = match batch.backlog {
            0 => None,
            _ => last.or(self.behind_since),
        };
        let observers = Arc::clone(&self.observers.borrow());
        self.holding.accept(batch, &observers, Instant::now());
    }

    /// Takes reports, and starts to write what is due, or `all`.
    fn flush(&mut self, all: bool) {
        let now = Instant::now();
        for report in self.deliveries.take(self.holding.room().min(MAX_REPORTS)) {
            self.holding.report(report, now);
        }
        let sources = self.sources();
        if let Some(sources) = sources.as_ref().filter(|_| self.writer.is_well()) {
            self.sweeper.start(now, sources);
        }
        if !all {
            let holding = &mut self.holding;
            let more = |most, bytes| holding.take(now, most, bytes, false);
            self.writer.start_retry(now, sources.clone(), more);
        }
        if self.writer.is_free() {
            let (most, bytes) = (writer::MAX_DOCUMENTS, writer::MAX_BYTES);
            let documents = self.holding.take(now, most, bytes, all);
            // At the end it is not known where deliveries will be once their results are saved.
            self.writer.start(documents, sources.filter(|_| !all));
        }
    }

    /// Returns where deliveries are looked up, if documents tell what became of them.
    fn sources(&self) -> Option<Sources> {
        let source = self.reading.source().filter(|_| self.has_outcomes)?;
        Some(Sources {
            pool: self.pool.clone(),
            queue: Arc::clone(&source.queue),
            listener: Arc::clone(&self.owner.listener),
            observers: Arc::clone(&self.observers.borrow()),
        })
    }

    fn written(&mut self, call: Result<writer::Call, JoinError>) {
        match call {
            Ok(call) => {
                let receipts = self.writer.ended(call);
                let is_full = receipts.len() >= writer::MAX_DOCUMENTS;
                self.holding.written(&receipts);
                if is_full {
                    self.flush(false);
                }
            }
            // Its batches are never passed, so its events are read again by the next owner.
            Err(error) => tracing::error!(%error, "the writer of documents panicked"),
        }
    }

    fn saved(&mut self, unsaved: Result<Vec<ShardPosition>, JoinError>) {
        match unsaved {
            Ok(unsaved) => self.holding.return_reached(unsaved),
            // The next positions are saved in their place.
            Err(error) => tracing::error!(%error, "the save of positions panicked"),
        }
    }

    fn kept_up(&mut self, gaps: Result<Option<Gaps>, JoinError>) {
        if let Ok(Some(gaps)) = gaps {
            self.metrics.search.gaps.set(gaps.count);
        }
    }

    /// Saves positions, and reports how far the history is.
    fn save(&mut self) {
        let now = Instant::now();
        if self.saves.is_empty() {
            let positions = self.holding.take_reached();
            if !positions.is_empty() {
                let (pool, owner) = (self.pool.clone(), self.owner.clone());
                self.saves.spawn(async move {
                    match position::save(&pool, &owner, &positions).await {
                        Ok(()) => Vec::new(),
                        Err(error) => {
                            tracing::debug!(%error, "cannot save the positions of the history; retrying");
                            positions
                        }
                    }
                });
            }
        }
        let dropped = self.deliveries.take_dropped();
        if dropped > 0 {
            self.metrics.search.reports_dropped.inc_by(dropped);
            self.sweeper.needed(now);
        }
        let owns_first = self.reading.owns(0);
        if owns_first && self.has_outcomes {
            self.sweeper.needed_regularly(now);
        }
        if self.writer.is_well() {
            self.upkeep.start(now, owns_first);
        }
        self.report();
    }

    fn report(&self) {
        let search = &self.metrics.search;
        let oldest = self.holding.oldest().or(self.behind_since);
        let age = oldest.map_or(TimeDelta::zero(), |oldest| Utc::now() - oldest);
        let lag = if self.reading.is_empty() {
            0.0
        } else {
            age.as_seconds_f64().max(0.0)
        };
        search.lag.set(lag);
        let (documents, bytes) = self.holding.size();
        search
            .buffered
            .set(i64::try_from(documents).unwrap_or(i64::MAX));
        search
            .buffered_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let gap = self.upkeep.gaps().latest;
        self.reporter.set_search(Some(SearchReport {
            lag_seconds: u64::try_from(age.num_seconds()).unwrap_or(0),
            message: self.writer.failure().map(str::to_owned),
            gap_since: gap.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)),
        }));
    }

    /// Writes what is at hand, and saves the positions that follow.
    async fn finish(&mut self) {
        // A call that runs may be of documents without which positions cannot move on.
        while let Some(call) = self.writer.next().await {
            self.written(call);
        }
        loop {
            self.flush(true);
            match self.writer.next().await {
                Some(call) => self.written(call),
                None => break,
            }
            if self.writer.failure().is_some() {
                break;
            }
        }
        while let Some(saved) = self.saves.join_next().await {
            self.saved(saved);
        }
        let positions = self.holding.take_reached();
        if !positions.is_empty()
            && let Err(error) = position::save(&self.pool, &self.owner, &positions).await
        {
            tracing::debug!(%error, "cannot save the positions of the history");
        }
    }
}
