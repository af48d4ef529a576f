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
use crate::kind_queues::KindQueues;
use crate::object_ref::ReconcileRequest;
use crate::reconcile::{Context, ReconcileResult};
use crate::work_queue::ReconcileAction;

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
    let mut queue = KindQueues::default();
    let mut tasks: JoinSet<Finished> = JoinSet::new();
    enqueue_all(&context, &mut queue);
    loop {
        context
            .metrics
            .workqueue_depth
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
        tracing::warn!("shutdown deadline exceeded; aborting reconciles in progress");
    }
}

/// Enqueues every known object.
fn enqueue_all(context: &Context, queue: &mut KindQueues) {
    let index = context.index();
    let now = Instant::now();
    for key in index.keys(WatchedKind::Listener, None) {
        queue.add_at(ReconcileRequest::Listener(key), now);
    }
    for key in index.keys(WatchedKind::Observer, None) {
        queue.add_at(ReconcileRequest::Observer(key), now);
    }
}

fn enqueue(queue: &mut KindQueues, request: BTreeSet<ReconcileRequest>) {
    let at = Instant::now() + DEBOUNCE;
    for request in request {
        queue.add_at(request, at);
    }
}

fn finish(queue: &mut KindQueues, finished: Result<Finished, tokio::task::JoinError>) {
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
            tracing::warn!(kind = request.kind(), resource = %request.key(), %error, "reconcile failed; requeued");
            ReconcileResult::failed()
        }
        Ok(Err(_)) => {
            tracing::error!(kind = request.kind(), resource = %request.key(), "reconcile panicked; requeued");
            ReconcileResult::failed()
        }
        Err(_) => {
            tracing::warn!(kind = request.kind(), resource = %request.key(), "reconcile timed out; requeued");
            ReconcileResult::failed()
        }
    };
    let outcome = match result.action {
        ReconcileAction::AwaitChange => "success",
        ReconcileAction::RequeueAfter(_) => "requeue",
        ReconcileAction::Failed => "error",
    };
    let metrics = &context.metrics;
    metrics
        .reconciles
        .with_label_values(&[request.kind(), outcome])
        .inc();
    let seconds = began.elapsed().as_secs_f64();
    metrics
        .reconcile_duration
        .with_label_values(&[request.kind()])
        .observe(seconds);
    Finished { request, result }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::convert::Infallible;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use crds::v1alpha1::Observer;
    use kube::Client;
    use kube::client::Body;
    use kube::core::DeserializeGuard;
    use serde_json::json;
    use testkit::wait::eventually;

    use super::*;
    use crate::cache::Index;
    use crate::cache::projection::CachedObject;
    use crate::listener::build::Installation;
    use crate::object_ref::ObjectRef;
    use crate::telemetry::metrics::Metrics;

    /// An API server whose first answer is a panic, and which knows no object.
    fn client() -> Client {
        let requests = AtomicU32::new(0);
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let number = requests.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(number > 0, "a panic in a reconcile");
                let status = json!({ "status": "Failure", "code": 404, "reason": "NotFound" });
                let body = Body::from(status.to_string().into_bytes());
                let answer = http::Response::builder().status(404).body(body);
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// An observer that no listener selects has a status that says so, and that is to be written.
    fn index() -> Index {
        let observer: DeserializeGuard<Observer> = serde_json::from_value(json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1",
            "kind": "Observer",
            "metadata": { "namespace": "web", "name": "orders", "uid": "1", "generation": 1 },
            "spec": { "events": { "entity": "a.b" }, "actions": [{ "name": "a", "log": {} }] },
        }))
        .unwrap();
        let mut index = Index::default();
        let key = ObjectRef::new("web", "orders");
        index.upsert(key, CachedObject::Observer(observer.into()));
        index
    }

    #[tokio::test]
    async fn panic_fails_one_reconcile_which_is_retried() {
        let metrics = Metrics::new().unwrap();
        let index = Arc::new(Mutex::new(index()));
        let given = Installation::default();
        let context = Context::new(client(), index, given, None, metrics.clone()).unwrap();
        let (_changes, received) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(Arc::new(context), received, 1, stop.clone()));
        let count = |outcome| {
            let reconciles = metrics.reconciles.with_label_values(&["Observer", outcome]);
            reconciles.get()
        };
        eventually("a retry that succeeds", async || {
            (count("success") == 1).then_some(())
        })
        .await;
        assert_eq!(count("error"), 1);
        stop.cancel();
        running.await.unwrap();
    }
}
