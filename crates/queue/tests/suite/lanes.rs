//! One lane: what goes in comes out, in order, one batch at a time.

use std::time::Duration;

use observer_queue::{ClaimRequest, JobFilter, JobOutcome, MAX_JOBS_PER_LANE};

use crate::support::builders::{
    RecordedDeadLetters, add, again, complete_all, ended, job, lane, request, worker,
};
use crate::support::{CALM, Fixture, LISTENER};

pub(crate) async fn job_goes_through_the_queue(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    assert!(queue.is_empty().await.unwrap());
    let mut new = job(&lane(7), 1);
    new.job.tenant = Some("acme".to_owned());
    new.attempts = 1;
    new.history = crate::support::builders::json(r#"[{"error":"x\u0000y"}]"#);
    add(&*queue, fixture.pool(), std::slice::from_ref(&new)).await;
    assert!(!queue.is_empty().await.unwrap());

    let firsts = queue.lane_heads(&[lane(8), lane(7)]).await.unwrap();
    assert_eq!(firsts[0], None);
    let first = firsts[1].clone().unwrap();
    assert_eq!((first.log_id, first.attempts), (1, 1));
    assert_eq!(first.error.as_deref(), Some("x\0y"));

    let batches = queue.claim(worker, &request(8)).await.unwrap();
    assert_eq!(batches.len(), 1);
    let claimed = &batches[0].jobs[0];
    assert_eq!(claimed.job.id, new.job.id);
    assert_eq!(claimed.job.lane, new.job.lane);
    assert_eq!(claimed.job.event.get(), new.job.event.get());
    assert_eq!(claimed.job.tenant, new.job.tenant);
    assert_eq!(claimed.job.key, new.job.key);
    assert_eq!(claimed.history.get(), new.history.get());
    assert_eq!(claimed.attempts, 1);
    assert!(queue.claim(worker, &request(8)).await.unwrap().is_empty());

    let done = [ended(claimed, JobOutcome::Completed)];
    let sink = RecordedDeadLetters::default();
    assert_eq!(queue.finish(worker, &done, &sink).await.unwrap(), []);
    assert!(queue.is_empty().await.unwrap());
    // FinishedClaim twice: the second is refused.
    let refused = queue.finish(worker, &done, &sink).await.unwrap();
    assert_eq!(refused, std::slice::from_ref(&claimed.claim));
}

pub(crate) async fn lane_has_one_batch_at_a_time(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let (one, two) = (worker(&*queue).await, worker(&*queue).await);
    let most = i64::try_from(MAX_JOBS_PER_LANE).unwrap();
    let jobs: Vec<_> = (0..most + 4).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;

    let batches = queue.claim(one, &request(8)).await.unwrap();
    assert_eq!(batches.len(), 1);
    let batch = &batches[0].jobs;
    let ids: Vec<i64> = batch.iter().map(|one| one.job.log_id).collect();
    assert!(batch.len() <= MAX_JOBS_PER_LANE);
    assert_eq!(
        ids,
        (0..i64::try_from(batch.len()).unwrap()).collect::<Vec<_>>()
    );
    assert!(queue.claim(two, &request(8)).await.unwrap().is_empty());

    // One more is added while the batch is claimed, and then others may claim the rest.
    add(&*queue, fixture.pool(), &[job(&lane(1), most + 4)]).await;
    assert!(queue.claim(two, &request(8)).await.unwrap().is_empty());
    let done: Vec<_> = batch
        .iter()
        .map(|one| ended(one, JobOutcome::Completed))
        .collect();
    let sink = RecordedDeadLetters::default();
    assert_eq!(queue.finish(one, &done, &sink).await.unwrap(), []);
    let left = complete_all(&*queue, two, &request(8)).await;
    let from = i64::try_from(batch.len()).unwrap();
    assert_eq!(left, (from..most + 5).collect::<Vec<_>>());
}

pub(crate) async fn retry_blocks_the_rest_of_its_batch(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let jobs: Vec<_> = (0..5).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let batches = queue.claim(worker, &request(8)).await.unwrap();
    let batch = &batches[0].jobs;
    assert!(batch.len() >= 3);
    let sink = RecordedDeadLetters::default();
    let outcomes = [
        ended(&batch[0], JobOutcome::Completed),
        ended(&batch[1], again(&batch[1], Duration::from_hours(1))),
        ended(&batch[2], JobOutcome::Released),
    ];
    assert_eq!(queue.finish(worker, &outcomes, &sink).await.unwrap(), []);
    // The rest waits behind the one that waits.
    assert!(queue.claim(worker, &request(8)).await.unwrap().is_empty());
    let first = queue.lane_heads(&[lane(1)]).await.unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!((first.log_id, first.attempts), (1, 1));
    assert_eq!(first.error.as_deref(), Some("no answer"));
    // It is made due, and all come in order.
    assert_eq!(queue.retry(&JobFilter::default()).await.unwrap(), 1);
    let left = complete_all(&*queue, worker, &request(8)).await;
    assert_eq!(left, [1, 2, 3, 4]);
}

pub(crate) async fn repeated_enqueue_adds_once(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let jobs = [job(&lane(1), 1), job(&lane(1), 2)];
    let mut tx = fixture.pool().begin().await.unwrap();
    queue.enqueue(&mut tx, &jobs).await.unwrap();
    tx.rollback().await.unwrap();
    // Part of the transaction, or done at once: again, it is there once.
    assert_eq!(queue.is_empty().await.unwrap(), fixture.transactional());
    add(&*queue, fixture.pool(), &jobs).await;
    let all = complete_all(&*queue, worker, &request(8)).await;
    assert_eq!(all, [1, 2]);
}

/// Jobs with large events, of one lane and of several, claimed a few at a time in the order of each lane.
pub(crate) async fn claims_are_bounded_in_bytes(fixture: &dyn Fixture) {
    const LARGE: usize = 100_000;
    const MOST: usize = 250_000;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let jobs: Vec<_> = (1..=24)
        .map(|log_id| {
            let mut new = job(&lane(u32::try_from(log_id % 6).unwrap()), log_id);
            new.job.event = crate::support::builders::json(&format!("\"{}\"", "x".repeat(LARGE)));
            new
        })
        .collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let limited = ClaimRequest {
        max_bytes: MOST,
        ..request(64)
    };
    let nothing = ClaimRequest {
        max_bytes: 0,
        ..request(64)
    };
    assert!(queue.claim(worker, &nothing).await.unwrap().is_empty());
    let (mut seen, mut claims) = (Vec::new(), 0);
    loop {
        let batches = queue.claim(worker, &limited).await.unwrap();
        let claimed: Vec<_> = batches.iter().flat_map(|batch| &batch.jobs).collect();
        if claimed.is_empty() {
            break;
        }
        claims += 1;
        assert!(claimed.len() <= 3, "{} jobs in one claim", claimed.len());
        seen.extend(
            claimed
                .iter()
                .map(|one| (one.job.lane.hash, one.job.log_id)),
        );
        let done: Vec<_> = claimed
            .iter()
            .map(|one| ended(one, JobOutcome::Completed))
            .collect();
        let refused = queue
            .finish(worker, &done, &RecordedDeadLetters::default())
            .await
            .unwrap();
        assert_eq!(refused, []);
    }
    assert!(claims >= 8, "{claims} claims");
    let mut of_lanes = seen.clone();
    of_lanes.sort_by_key(|(lane, _)| *lane);
    assert!(
        of_lanes.is_sorted(),
        "the order of each lane is kept: {seen:?}"
    );
    assert_eq!(seen.len(), jobs.len());
    assert!(queue.is_empty().await.unwrap());
}
