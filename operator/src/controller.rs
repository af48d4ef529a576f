//! Does the work that changes make: some at a time, each piece once at a time, failures again
//! after a growing wait.
//!
//! Level-triggered: a piece of work names a resource and nothing else, and what there is to do is
//! found out when it is done.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cache::projection::What;
use crate::object_ref::Work;
use crate::reconcile::{Context, Done};
use crate::work_queue::{Outcome, Queue};

/// Reconciles at once where nothing else is asked for.
pub const CONCURRENCY: usize = 8;

/// Changes come in bursts, as when pods are rolled.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// How long one reconcile may take.
const RECONCILE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a stop waits for what is under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// One reconcile at its end.
struct Ended {
    work: Work,
    done: Done,
}

/// Works until the stop, then finishes what is under way.
pub async fn run(
    context: Arc<Context>,
    mut changes: mpsc::Receiver<BTreeSet<Work>>,
    concurrency: usize,
    stop: CancellationToken,
) {
    let mut queue = Queue::default();
    let mut tasks: JoinSet<Ended> = JoinSet::new();
    ask_all(&context, &mut queue);
    loop {
        context
            .metrics
            .queued
            .set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
        while tasks.len() < concurrency
            && let Some(work) = queue.take(Instant::now())
        {
            tasks.spawn(one(context.clone(), work));
        }
        let next = queue.next().filter(|_| tasks.len() < concurrency);
        tokio::select! {
            () = stop.cancelled() => break,
            Some(work) = changes.recv() => ask(&mut queue, work),
            Some(ended) = tasks.join_next() => end(&mut queue, ended),
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

/// Everything that is known is looked at once.
fn ask_all(context: &Context, queue: &mut Queue<Work>) {
    let index = context.index();
    let now = Instant::now();
    for key in index.keys(What::Listener, None) {
        queue.ask(Work::Listener(key), now);
    }
    for key in index.keys(What::Observer, None) {
        queue.ask(Work::Observer(key), now);
    }
}

fn ask(queue: &mut Queue<Work>, work: BTreeSet<Work>) {
    let at = Instant::now() + DEBOUNCE;
    for work in work {
        queue.ask(work, at);
    }
}

fn end(queue: &mut Queue<Work>, ended: Result<Ended, tokio::task::JoinError>) {
    // A panic is caught within the task, and nobody aborts one.
    let Ok(Ended { work, done }) = ended else {
        return;
    };
    ask(queue, done.concerns);
    queue.end(&work, done.outcome, Instant::now(), rand::random());
}

async fn one(context: Arc<Context>, work: Work) -> Ended {
    let began = Instant::now();
    let reconcile = AssertUnwindSafe(context.reconcile(&work)).catch_unwind();
    let done = match timeout(RECONCILE_TIMEOUT, reconcile).await {
        Ok(Ok(Ok(done))) => done,
        Ok(Ok(Err(error))) => {
            tracing::warn!(kind = work.kind(), resource = %work.key(), %error, "a reconcile failed and is tried again");
            Done::failed()
        }
        Ok(Err(_)) => {
            tracing::error!(kind = work.kind(), resource = %work.key(), "a reconcile panicked and is tried again");
            Done::failed()
        }
        Err(_) => {
            tracing::warn!(kind = work.kind(), resource = %work.key(), "a reconcile took too long and is tried again");
            Done::failed()
        }
    };
    let outcome = match done.outcome {
        Outcome::Settled => "settled",
        Outcome::Again(_) => "again",
        Outcome::Failed => "failed",
    };
    let metrics = &context.metrics;
    metrics
        .reconciles
        .with_label_values(&[work.kind(), outcome])
        .inc();
    let seconds = began.elapsed().as_secs_f64();
    metrics
        .durations
        .with_label_values(&[work.kind()])
        .observe(seconds);
    Ended { work, done }
}
