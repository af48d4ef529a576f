//! What became of events.
//!
//! [`outcome`] tells it of one event that the change log still holds, from the checkpoints, the jobs and the
//! dead letters: an event that its shard's checkpoint has passed, and that is neither a job nor a dead
//! letter, was delivered.
//!
//! The history of a listener with `spec.search` keeps it: a task of each process, the indexer, writes a
//! document of each event into a search index, off the delivery path. It reads the log once more, from
//! positions of its own, and is told by the dispatcher and the job worker what becomes of deliveries, in a
//! buffer that they never wait for. What is lost of that, in a crash or for want of room, is made good from
//! what is stored (see `settle` and `sweep`).

pub mod compose;
pub mod events;
pub mod holding;
mod indexer;
pub mod lookup;
pub mod outcome;
pub mod past;
pub mod position;
mod reading;
pub mod settle;
mod sweep;
mod upkeep;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use crds::config::ListenerConfig;
use search::SearchError;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use self::compose::Composer;
use self::indexer::{HistoryCommand, Indexer, IndexerConfig};
use self::position::PositionOwner;
pub(crate) use self::reading::LogSource;
use crate::checkpoint::ClaimedShard;
use crate::database::{self, DatabaseError};
use crate::delivery::report::DeliveryReporter;
use crate::observers::Observers;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusReporter;

/// Maximum number of commands that wait for the indexer, which takes them at once.
const MAX_COMMANDS: usize = 64;

/// How long the end of a session may be delayed by the indexer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// Why the history of a listener cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The URL of the database is invalid.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The search index cannot be used.
    #[error(transparent)]
    Index(#[from] SearchError),
}

/// The history that a session keeps; none where `spec.search` is absent.
#[derive(Debug, Default)]
pub(crate) struct History {
    deliveries: DeliveryReporter,
    commands: Option<mpsc::Sender<HistoryCommand>>,
    indexer: Option<AbortOnDropHandle<()>>,
}

/// What the history of a session is kept with.
#[derive(Debug)]
pub(crate) struct HistoryContext {
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    pub(crate) metrics: Metrics,
    pub(crate) reporter: Arc<StatusReporter>,
}

impl History {
    /// Starts the indexer, if the listener keeps a history. Waits for no server.
    pub(crate) fn start(
        listener: &ListenerConfig,
        context: HistoryContext,
    ) -> Result<Self, HistoryError> {
        let Some(config) = &listener.search else {
            return Ok(Self::default());
        };
        let (url, identity) = (&listener.database_url, listener.identity());
        let index = search::open(config, database::search_pool(url)?)?;
        let pool = database::history_pool(url)?;
        let composer = Composer::new(identity.as_str(), config);
        let deliveries = if composer.has_outcomes() {
            DeliveryReporter::new()
        } else {
            DeliveryReporter::default()
        };
        let indexer = Indexer::new(IndexerConfig {
            owner: PositionOwner {
                listener: Arc::from(identity.as_str()),
                shards: listener.shards,
                start: listener.start_at,
                max_lag: config.max_lag,
            },
            composer,
            index,
            pool,
            observers: context.observers,
            deliveries: deliveries.clone(),
            max_poll_interval: listener.max_poll_interval,
            retention: config.retention,
            metrics: context.metrics,
            reporter: context.reporter,
        });
        let (commands, requests) = mpsc::channel(MAX_COMMANDS);
        Ok(Self {
            deliveries,
            commands: Some(commands),
            indexer: Some(AbortOnDropHandle::new(tokio::spawn(indexer.run(requests)))),
        })
    }

    /// Returns the handle by which deliveries are reported.
    pub(crate) fn deliveries(&self) -> DeliveryReporter {
        self.deliveries.clone()
    }

    /// Has a shard indexed that was claimed.
    pub(crate) async fn assign(&self, claimed: &ClaimedShard, source: &Arc<LogSource>) {
        self.send(HistoryCommand::Assign {
            shard: claimed.shard,
            epoch: claimed.epoch,
            is_taken_over: claimed.taken_from.is_some(),
            source: Arc::clone(source),
        })
        .await;
    }

    /// Stops the indexing of a shard that was claimed with an epoch.
    pub(crate) async fn release(&self, shard: u16, epoch: i64) {
        self.send(HistoryCommand::Release { shard, epoch }).await;
    }

    async fn send(&self, command: HistoryCommand) {
        if let Some(commands) = &self.commands {
            // An indexer that has panicked takes none.
            let _gone = commands.send(command).await;
        }
    }

    /// Writes what is at hand, for a short time, and ends the indexer.
    pub(crate) async fn shut_down(self) {
        drop(self.commands);
        if let Some(indexer) = self.indexer {
            let _in_time = tokio::time::timeout(SHUTDOWN_TIMEOUT, indexer).await;
        }
    }
}
