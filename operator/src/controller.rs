//! Runs reconciles: with bounded concurrency, one at a time for each object, and with a backoff for
//! those that fail.
//!
//! Level-triggered: a request names an object and nothing else. The reconcile finds out what there is
//! to do. A panic ends the one reconcile in which it occurs.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cache::projection::WatchedKind;
use crate::object_ref::ReconcileRequest;
use crate::reconcile::{Context, ReconcileResult};
use crate::work_queue::{ReconcileAction, WorkQueue};

/// Default number of concurrent reconciles.
pub const CONCURRENCY: usize = 8;

/// Delay of a reconcile after a change. Changes come in bursts, as when pods are rolled.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Timeout of one reconcile.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest wait at shutdown for reconciles in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Result of one reconcile.
struct Finished {
    request: ReconcileRequest,
    result: ReconcileResult,
}

/// Reconciles until `stop`, then waits for the reconciles in flight.
pub async fn run(
    context: Arc<Context>,
    mut changes: mpsc::Receiver<BTreeSet<ReconcileRequest>>,
    concurrency: usize,
    stop: CancellationToken,
) {
    let mut queue = WorkQueue::default();
    let mut tasks: JoinSet<Finished> = JoinSet::new();
    enqueue_all(&context, &mut queue);
    loop {
        context
            .metrics
            .queued
            .set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
        while tasks.len() < concurrency
            && let Some(request) = queue.get(Instant::now())
        {
            tasks.spawn(reconcile_one(context.clone(), request));
        }
        let next = queue.next_ready_at().filter(|_| tasks.len() < concurrency);
        tokio::select! {
            () = stop.cancelled() => break,
            Some(request) = changes.recv() => enqueue(&mut queue, request),
            Some(finished) = tasks.join_next() => finish(&mut queue, finished),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
    let finished = timeout(STOP_TIMEOUT, async {
        while tasks.join_next().await.is_some() {}
    });
    if finished.await.is_err() {
        tracing::warn!("some reconciles did not end in time and are given up");
    }
}

/// Enqueues every known object.
fn enqueue_all(context: &Context, queue: &mut WorkQueue<ReconcileRequest>) {
    let index = context.index();
    let now = Instant::now();
    for key in index.keys(WatchedKind::Listener, None) {
        queue.add_at(ReconcileRequest::Listener(key), now);
    }
    for key in index.keys(WatchedKind::Observer, None) {
        queue.add_at(ReconcileRequest::Observer(key), now);
    }
}

fn enqueue(queue: &mut WorkQueue<ReconcileRequest>, request: BTreeSet<ReconcileRequest>) {
    let at = Instant::now() + DEBOUNCE;
    for request in request {
        queue.add_at(request, at);
    }
}

fn finish(
    queue: &mut WorkQueue<ReconcileRequest>,
    finished: Result<Finished, tokio::task::JoinError>,
) {
    // A panic is caught within the task, and nobody aborts one.
    let Ok(Finished { request, result }) = finished else {
        return;
    };
    enqueue(queue, result.also_enqueue);
    queue.done(&request, result.action, Instant::now(), rand::random());
}

async fn reconcile_one(context: Arc<Context>, request: ReconcileRequest) -> Finished {
    let began = Instant::now();
    let reconcile = AssertUnwindSafe(context.reconcile(&request)).catch_unwind();
    let result = match timeout(RECONCILE_TIMEOUT, reconcile).await {
        Ok(Ok(Ok(result))) => result,
        Ok(Ok(Err(error))) => {
            tracing::warn!(kind = request.kind(), resource = %request.key(), %error, "a reconcile failed and is tried again");
            ReconcileResult::failed()
        }
        Ok(Err(_)) => {
            tracing::error!(kind = request.kind(), resource = %request.key(), "a reconcile panicked and is tried again");
            ReconcileResult::failed()
        }
        Err(_) => {
            tracing::warn!(kind = request.kind(), resource = %request.key(), "a reconcile took too long and is tried again");
            ReconcileResult::failed()
        }
    };
    let outcome = match result.action {
        ReconcileAction::AwaitChange => "settled",
        ReconcileAction::RequeueAfter(_) => "again",
        ReconcileAction::Failed => "failed",
    };
    let metrics = &context.metrics;
    metrics
        .reconciles
        .with_label_values(&[request.kind(), outcome])
        .inc();
    let seconds = began.elapsed().as_secs_f64();
    metrics
        .durations
        .with_label_values(&[request.kind()])
        .observe(seconds);
    Finished { request, result }
}
