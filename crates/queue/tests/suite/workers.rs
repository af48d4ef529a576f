//! Workers that die, stand still, take leave and come again. None of them says what time it is:
//! no call of a queue takes a moment, so a worker's clock cannot matter.

use std::time::{Duration, Instant};

use observer_queue::{HeartbeatResponse, JobOutcome, JobQueue, WorkerId};

use crate::support::builders::{
    RecordedDeadLetters, add, again, complete_batch, ended, job, lane, request, worker,
};
use crate::support::{CALM, Fixture, HASTY, LISTENER, eventually};
use testkit::wait::Patience;

/// Keeps the queue until so many claims are taken back.
async fn until_expired(queue: &dyn JobQueue, claims: u64) {
    let expired = std::sync::atomic::AtomicU64::new(0);
    eventually("claims are taken back", async || {
        let kept = queue.run_maintenance().await.unwrap().expired_claims;
        let before = expired.fetch_add(kept, std::sync::atomic::Ordering::Relaxed);
        (before + kept >= claims).then_some(())
    })
    .await;
}

/// Sends a heartbeat with a short lease. Before it, the worker had all the
/// time that it needed.
async fn short_heartbeat(fixture: &dyn Fixture, worker: WorkerId) {
    let queue = fixture.open(LISTENER, HASTY).await;
    let told = queue.heartbeat(worker).await.unwrap();
    assert!(
        matches!(told, HeartbeatResponse::Renewed { .. }),
        "{told:?}"
    );
}

pub(crate) async fn expired_lease_makes_jobs_available_and_is_recorded(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let dead = worker(&*queue).await;
    let jobs: Vec<_> = (0..3).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let held = queue.claim(dead, &request(8)).await.unwrap();
    let claims = held[0].jobs.len();
    short_heartbeat(fixture, dead).await;
    until_expired(&*queue, u64::try_from(claims).unwrap()).await;

    let first = queue.lane_heads(&[lane(1)]).await.unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!((first.log_id, first.attempts), (0, 1));
    assert!(first.error.unwrap().contains("not heard of"), "says why");
    let live = worker(&*queue).await;
    let batches = queue.claim(live, &request(8)).await.unwrap();
    let batch = &batches[0].jobs;
    let attempts: Vec<u32> = batch.iter().map(|one| one.attempts).collect();
    assert_eq!(attempts[0], 1);
    assert!(attempts[1..].iter().all(|made| *made == 0), "{attempts:?}");
    let note: serde_json::Value = serde_json::from_str(batch[0].history.get()).unwrap();
    assert_eq!(note[0]["kind"], "lost");
    assert_eq!(note[0]["status"], serde_json::Value::Null);
    chrono::DateTime::parse_from_rfc3339(note[0]["at"].as_str().unwrap()).unwrap();
    assert!(
        batch[0].claim.generation > held[0].jobs[0].claim.generation
            || batch[0].claim != held[0].jobs[0].claim
    );
}

pub(crate) async fn results_after_lease_expiry_are_stale(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let paused = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 0), job(&lane(2), 1)],
    )
    .await;
    let held = queue.claim(paused, &request(8)).await.unwrap();
    let held: Vec<_> = held.into_iter().flat_map(|batch| batch.jobs).collect();
    assert_eq!(held.len(), 2);
    short_heartbeat(fixture, paused).await;
    until_expired(&*queue, 2).await;
    // Others have one of them, and nobody the other: all the same.
    let other = worker(&*queue).await;
    assert_eq!(queue.claim(other, &request(1)).await.unwrap().len(), 1);

    assert_eq!(
        queue.heartbeat(paused).await.unwrap(),
        HeartbeatResponse::Expired
    );
    assert!(queue.claim(paused, &request(8)).await.unwrap().is_empty());
    let sink = RecordedDeadLetters::default();
    let late = [
        ended(&held[0], JobOutcome::Completed),
        ended(
            &held[1],
            JobOutcome::Discarded {
                attempts: 9,
                history: crate::support::builders::json("[]"),
            },
        ),
    ];
    let refused = queue.finish(paused, &late, &sink).await.unwrap();
    assert_eq!(refused.len(), 2);
    assert!(sink.0.lock().unwrap().is_empty(), "nothing is buried");
    assert!(!queue.is_empty().await.unwrap());
    queue.register(paused, "again").await.unwrap();
    assert!(matches!(
        queue.heartbeat(paused).await.unwrap(),
        HeartbeatResponse::Renewed { .. }
    ));
}

pub(crate) async fn heartbeats_keep_claims(fixture: &dyn Fixture) {
    // A test that was not scheduled for a whole lease sent no heartbeat in it, which shows nothing.
    eventually("signs of life come in time", async || {
        timely_heartbeats_keep_claims(fixture).await
    })
    .await;
}

/// Nothing where they did not come in time.
async fn timely_heartbeats_keep_claims(fixture: &dyn Fixture) -> Option<()> {
    let listener = format!("shop/{}", uuid::Uuid::new_v4());
    let (calm, canceller) = (
        fixture.open(&listener, CALM).await,
        fixture.open(&listener, HASTY).await,
    );
    let live = worker(&*calm).await;
    add(&*calm, fixture.pool(), &[job(&lane(1), 0)]).await;
    let held = calm.claim(live, &request(8)).await.unwrap();
    let gone = worker(&*calm).await;
    add(&*calm, fixture.pool(), &[job(&lane(2), 1)]).await;
    let silent = calm.claim(gone, &request(8)).await.unwrap();
    let mut sign = Instant::now();
    assert!(matches!(
        canceller.heartbeat(live).await.unwrap(),
        HeartbeatResponse::Renewed { .. }
    ));
    // From here on this one gives none, and the other one goes on until it is gone.
    assert!(matches!(
        canceller.heartbeat(gone).await.unwrap(),
        HeartbeatResponse::Renewed { .. }
    ));
    let mut patience = Patience::default();
    let mut expired = 0;
    while expired < silent[0].jobs.len() as u64 {
        assert!(patience.lasts(), "{expired} claims are taken back");
        let next = Instant::now();
        let told = canceller.heartbeat(live).await.unwrap();
        if told == HeartbeatResponse::Expired {
            assert!(
                sign.elapsed() >= HASTY.lease,
                "gone before its lease is over"
            );
            return None;
        }
        sign = next;
        expired += canceller.run_maintenance().await.unwrap().expired_claims;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = [ended(&held[0].jobs[0], JobOutcome::Completed)];
    let refused = canceller
        .finish(live, &done, &RecordedDeadLetters::default())
        .await
        .unwrap();
    if sign.elapsed() >= HASTY.lease {
        return None;
    }
    assert_eq!(refused, [], "its signs of life were in time");
    Some(())
}

pub(crate) async fn deregister_releases_without_counting_attempts(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let (leaving, other) = (worker(&*queue).await, worker(&*queue).await);
    let jobs: Vec<_> = (0..4).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let held = queue.claim(leaving, &request(8)).await.unwrap();
    let first = &held[0].jobs[0];
    let done = [ended(first, JobOutcome::Completed)];
    queue
        .finish(leaving, &done, &RecordedDeadLetters::default())
        .await
        .unwrap();
    queue.deregister(leaving).await.unwrap();
    let batches = queue.claim(other, &request(8)).await.unwrap();
    let ids: Vec<_> = batches[0]
        .jobs
        .iter()
        .map(|one| (one.job.log_id, one.attempts))
        .collect();
    assert_eq!(ids[0], (1, 0));
    assert_eq!(
        queue.heartbeat(leaving).await.unwrap(),
        HeartbeatResponse::Expired
    );
}

pub(crate) async fn registering_again_releases_earlier_claims(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &[job(&lane(1), 0)]).await;
    let held = queue.claim(worker, &request(8)).await.unwrap();
    queue.register(worker, "restarted").await.unwrap();
    let late = [ended(&held[0].jobs[0], JobOutcome::Completed)];
    let refused = queue
        .finish(worker, &late, &RecordedDeadLetters::default())
        .await
        .unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!(complete_batch(&*queue, worker, &request(8)).await, [0]);
}

pub(crate) async fn unregistered_worker_claims_nothing(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    add(&*queue, fixture.pool(), &[job(&lane(1), 0)]).await;
    let nobody = WorkerId(uuid::Uuid::new_v4());
    assert!(queue.claim(nobody, &request(8)).await.unwrap().is_empty());
    assert_eq!(
        queue.heartbeat(nobody).await.unwrap(),
        HeartbeatResponse::Expired
    );
    queue.deregister(nobody).await.unwrap();
}

pub(crate) async fn scheduled_jobs_become_available_when_due(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 0), job(&lane(2), 1)],
    )
    .await;
    let batches = queue.claim(worker, &request(8)).await.unwrap();
    let all: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.jobs)
        .map(|one| ended(one, again(one, Duration::from_millis(100))))
        .collect();
    assert_eq!(
        queue
            .finish(worker, &all, &RecordedDeadLetters::default())
            .await
            .unwrap(),
        []
    );
    let mut seen = Vec::new();
    let mut patience = Patience::default();
    while seen.len() < 2 {
        assert!(patience.lasts(), "only {seen:?} came");
        for batch in queue.claim(worker, &request(8)).await.unwrap() {
            let one = &batch.jobs[0];
            assert_eq!(one.attempts, 1);
            assert!(one.history.get().contains("no answer"));
            seen.push(one.job.log_id);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1]);
}

pub(crate) async fn discarded_job_is_written_to_the_sink_once(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 0), job(&lane(1), 1)],
    )
    .await;
    let batches = queue.claim(worker, &request(8)).await.unwrap();
    let sink = RecordedDeadLetters::default();
    let dead = JobOutcome::Discarded {
        attempts: 3,
        history: crate::support::builders::json("[]"),
    };
    let first = &batches[0].jobs[0];
    let all = [ended(first, dead)];
    assert_eq!(queue.finish(worker, &all, &sink).await.unwrap(), []);
    assert_eq!(*sink.0.lock().unwrap(), std::slice::from_ref(&first.job.id));
    assert_eq!(queue.finish(worker, &all, &sink).await.unwrap().len(), 1);
    assert_eq!(sink.0.lock().unwrap().len(), 1);
    let next = queue.lane_heads(&[lane(1)]).await.unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!(next.log_id, 1);
}
