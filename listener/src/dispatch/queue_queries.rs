//! Queries of the queue: which lanes have jobs, and the first job of each.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{JobQueue, LaneHead, LanesOfAction, QueueError};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use super::checkpoint_buffer::CheckpointBuffer;
use super::delivery_lanes::DeliveryLanes;
use super::owned_shard::OwnedShards;
use super::queued_lanes::{LaneQuery, MAX_LANES};
use crate::telemetry::metrics::Metrics;

/// Minimum time between two listings of all lanes with jobs.
const LISTING_INTERVAL: Duration = Duration::from_secs(1);

/// How long the queue may take to respond.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// A response of the queue.
#[derive(Debug)]
pub(super) enum QueueResponse {
    /// The heads of some lanes.
    Heads(Vec<(LaneQuery, Option<LaneHead>)>),
    /// All lanes with jobs.
    Listing(Vec<LanesOfAction>),
    /// The query failed.
    Failed(String),
}

/// The queries that run.
#[derive(Debug)]
pub(super) struct QueueQueries {
    queue: Arc<dyn JobQueue>,
    running: JoinSet<QueueResponse>,
    /// When the next listing may be made.
    next_listing: Instant,
    metrics: Metrics,
}

impl QueueQueries {
    /// Creates no queries.
    pub(super) fn new(queue: Arc<dyn JobQueue>, metrics: Metrics) -> Self {
        Self {
            queue,
            running: JoinSet::new(),
            next_listing: Instant::now(),
            metrics,
        }
    }

    /// Queries the lanes that have jobs, unless queries run.
    pub(super) fn start(&mut self, lanes: &mut DeliveryLanes, shards: &OwnedShards) {
        if !self.running.is_empty() {
            return;
        }
        let (queries, names) = lanes.next_queries();
        if !queries.is_empty() {
            let queue = Arc::clone(&self.queue);
            self.running.spawn(async move {
                let with_heads =
                    |heads| QueueResponse::Heads(queries.into_iter().zip(heads).collect());
                respond(queue.lane_heads(&names), with_heads).await
            });
        }
        let now = Instant::now();
        if now >= self.next_listing && lanes.begin_listing() {
            self.next_listing = now + LISTING_INTERVAL;
            let queue = Arc::clone(&self.queue);
            let (numbers, shard_count) = (shards.numbers(), shards.shard_count());
            self.running.spawn(async move {
                let listing = queue.lanes_with_jobs(&numbers, shard_count, MAX_LANES);
                respond(listing, QueueResponse::Listing).await
            });
        }
    }

    /// Waits for the next response; `None` if no query runs.
    pub(super) async fn next_response(&mut self) -> Option<Result<QueueResponse, JoinError>> {
        self.running.join_next().await
    }

    /// Applies a response to the lanes.
    pub(super) fn apply(
        &self,
        response: QueueResponse,
        lanes: &mut DeliveryLanes,
        checkpoint: &mut CheckpointBuffer,
    ) {
        match response {
            QueueResponse::Heads(heads) => {
                for (query, head) in heads {
                    lanes.apply_head(query, head, checkpoint);
                }
            }
            QueueResponse::Listing(actions) => lanes.apply_listing(&actions),
            QueueResponse::Failed(error) => {
                let errors = &self.metrics.database_errors;
                errors.with_label_values(&["use_queue"]).inc();
                tracing::debug!(error, "cannot query the job queue; retrying");
            }
        }
    }
}

async fn respond<T>(
    query: impl Future<Output = Result<T, QueueError>>,
    response: impl FnOnce(T) -> QueueResponse,
) -> QueueResponse {
    match timeout(QUERY_TIMEOUT, query).await {
        Ok(Ok(found)) => response(found),
        Ok(Err(error)) => QueueResponse::Failed(error.to_string()),
        Err(_) => QueueResponse::Failed("no response in time".to_owned()),
    }
}
