//! Jobs, wants and outcomes.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use observer_queue::{
    ClaimRequest, ClaimedJob, DeadLetterSink, FinishedClaim, Job, JobOutcome, JobQueue, Lane,
    NewJob, Priority, QueueError, WorkerId,
};
use serde_json::value::RawValue;
use sqlx::{PgConnection, PgPool};
use testkit::wait::Patience;
use uuid::Uuid;

/// The observer that most tests have.
pub(crate) const OBSERVER: &str = "shop/orders";

/// Its action.
pub(crate) const ACTION: &str = "notify";

/// JSON from its text.
pub(crate) fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// A lane of the observer that most tests have.
pub(crate) fn lane(hash: u32) -> Lane {
    lane_of(OBSERVER, hash)
}

/// A lane of an observer.
pub(crate) fn lane_of(observer: &str, hash: u32) -> Lane {
    Lane {
        observer: observer.into(),
        action: ACTION.into(),
        hash,
    }
}

/// A job that is due at once.
pub(crate) fn job(lane: &Lane, log_id: i64) -> NewJob {
    NewJob {
        job: Job {
            id: format!("{}-{}-{}-{log_id}", lane.observer, lane.action, lane.hash),
            lane: lane.clone(),
            log_id,
            event_id: format!("event-{log_id}"),
            entity: "public.orders".to_owned(),
            key: Some(lane.hash.to_string()),
            tenant: None,
            priority: Priority::Normal,
            event: json(r#"{"new":{"text":"\u0000 and half of a pair: \ud800"}}"#),
        },
        delay: Duration::ZERO,
        attempts: 0,
        history: json("[]"),
    }
}

/// Adds jobs in a transaction of their own.
pub(crate) async fn add(queue: &dyn JobQueue, pool: &PgPool, jobs: &[NewJob]) {
    let mut tx = pool.begin().await.unwrap();
    queue.enqueue(&mut tx, jobs).await.unwrap();
    tx.commit().await.unwrap();
}

/// Registers a worker.
pub(crate) async fn worker(queue: &dyn JobQueue) -> WorkerId {
    let worker = WorkerId(Uuid::new_v4());
    queue.register(worker, "worker").await.unwrap();
    worker
}

/// More bytes than all jobs of a test have.
pub(crate) const MANY_BYTES: usize = 1 << 30;

/// So many batches of the action that most tests have, without limits.
pub(crate) fn request(batches: usize) -> ClaimRequest {
    request_for(&[OBSERVER], batches)
}

/// So many batches of these observers, without limits.
pub(crate) fn request_for(observers: &[&str], batches: usize) -> ClaimRequest {
    ClaimRequest {
        max_bytes: MANY_BYTES,
        max_lanes: batches,
        actions: observers
            .iter()
            .map(|observer| (Arc::from(*observer), Arc::from(ACTION), None))
            .collect(),
        max_running_total: None,
    }
}

/// The end of a claimed job.
pub(crate) fn ended(claimed: &ClaimedJob, outcome: JobOutcome) -> FinishedClaim {
    FinishedClaim {
        job: Arc::new(claimed.job.clone()),
        claim: claimed.claim.clone(),
        outcome,
        enqueued_at: claimed.enqueued_at,
    }
}

/// Another attempt after `wait`.
pub(crate) fn again(claimed: &ClaimedJob, wait: Duration) -> JobOutcome {
    JobOutcome::Retry {
        delay: wait,
        attempts: claimed.attempts + 1,
        history: json(
            r#"[{"at":"2026-01-01T00:00:00Z","kind":"timeout","error":"no answer","status":null}]"#,
        ),
    }
}

/// Remembers the ids of jobs that became dead letters.
#[derive(Default)]
pub(crate) struct RecordedDeadLetters(pub(crate) Mutex<Vec<String>>);

#[async_trait]
impl DeadLetterSink for RecordedDeadLetters {
    async fn write(
        &self,
        _: &mut PgConnection,
        dead: &[&FinishedClaim],
    ) -> Result<(), sqlx::Error> {
        let ids = dead.iter().map(|one| one.job.id.clone());
        self.0.lock().unwrap().extend(ids);
        Ok(())
    }
}

/// What a queue answers.
type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, QueueError>> + Send + 'a>>;

/// Asks until there is an answer: a server that has just taken another's place may refuse for a moment, and has done
/// nothing then.
async fn answered<'a, T>(ask: impl Fn() -> Asked<'a, T>) -> T {
    let mut patience = Patience::default();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(patience.lasts(), "the queue does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Claims once and ends all of it well; gives the log ids in the order of the claim.
pub(crate) async fn complete_batch(
    queue: &dyn JobQueue,
    worker: WorkerId,
    request: &ClaimRequest,
) -> Vec<i64> {
    let batches = answered(|| queue.claim(worker, request)).await;
    let claimed: Vec<_> = batches.into_iter().flat_map(|batch| batch.jobs).collect();
    let all: Vec<_> = claimed
        .iter()
        .map(|one| ended(one, JobOutcome::Completed))
        .collect();
    let dead_letters = RecordedDeadLetters::default();
    let refused = answered(|| queue.finish(worker, &all, &dead_letters)).await;
    assert_eq!(refused, []);
    claimed.iter().map(|one| one.job.log_id).collect()
}

/// Claims and ends well until there is no job; gives the log ids in the order of the claims.
pub(crate) async fn complete_all(
    queue: &dyn JobQueue,
    worker: WorkerId,
    request: &ClaimRequest,
) -> Vec<i64> {
    let mut all = Vec::new();
    let mut patience = Patience::default();
    while !answered(|| queue.is_empty()).await {
        let some = complete_batch(queue, worker, request).await;
        if !some.is_empty() {
            patience = Patience::default();
        }
        assert!(
            patience.lasts(),
            "there are jobs that nobody gets after {all:?}"
        );
        all.extend(some);
    }
    all
}
