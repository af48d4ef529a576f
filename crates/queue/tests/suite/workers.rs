//! Workers that die, stand still, take leave and come again. None of them says what time it is:
//! no call of a queue takes a moment, so a worker's clock cannot matter.

use std::time::{Duration, Instant};

use observer_queue::{Alive, Ending, JobQueue, WorkerId};

use crate::support::make::{Graves, add, again, ended, job, lane, want, work_off, worker};
use crate::support::{CALM, Fixture, HASTY, LISTENER, eventually};
use testkit::wait::Patience;

/// Keeps the queue until so many claims are taken back.
async fn until_expired(queue: &dyn JobQueue, claims: u64) {
    let expired = std::sync::atomic::AtomicU64::new(0);
    eventually("claims are taken back", async || {
        let kept = queue.keep().await.unwrap().expired;
        let before = expired.fetch_add(kept, std::sync::atomic::Ordering::Relaxed);
        (before + kept >= claims).then_some(())
    })
    .await;
}

/// Has a worker give a sign of life that does not last for long. Before it, the worker had all the
/// time that it needed.
async fn last_sign(fixture: &dyn Fixture, worker: WorkerId) {
    let queue = fixture.open(LISTENER, HASTY).await;
    let told = queue.alive(worker).await.unwrap();
    assert!(matches!(told, Alive::Yes { .. }), "{told:?}");
}

pub(crate) async fn a_dead_workers_jobs_come_again_and_tell_of_it(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let dead = worker(&*queue).await;
    let jobs: Vec<_> = (0..3).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let held = queue.claim(dead, &want(8)).await.unwrap();
    let claims = held[0].jobs.len();
    last_sign(fixture, dead).await;
    until_expired(&*queue, u64::try_from(claims).unwrap()).await;

    let first = queue.firsts(&[lane(1)]).await.unwrap()[0].clone().unwrap();
    assert_eq!((first.log_id, first.attempts), (0, 1));
    assert!(first.error.unwrap().contains("not heard of"), "says why");
    let live = worker(&*queue).await;
    let runs = queue.claim(live, &want(8)).await.unwrap();
    let run = &runs[0].jobs;
    let attempts: Vec<u32> = run.iter().map(|one| one.attempts).collect();
    assert_eq!(attempts[0], 1);
    assert!(attempts[1..].iter().all(|made| *made == 0), "{attempts:?}");
    let note: serde_json::Value = serde_json::from_str(run[0].history.get()).unwrap();
    assert_eq!(note[0]["kind"], "lost");
    assert_eq!(note[0]["status"], serde_json::Value::Null);
    chrono::DateTime::parse_from_rfc3339(note[0]["at"].as_str().unwrap()).unwrap();
    assert!(
        run[0].claim.number > held[0].jobs[0].claim.number || run[0].claim != held[0].jobs[0].claim
    );
}

pub(crate) async fn a_worker_that_stood_still_is_refused(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let paused = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 0), job(&lane(2), 1)],
    )
    .await;
    let held = queue.claim(paused, &want(8)).await.unwrap();
    let held: Vec<_> = held.into_iter().flat_map(|run| run.jobs).collect();
    assert_eq!(held.len(), 2);
    last_sign(fixture, paused).await;
    until_expired(&*queue, 2).await;
    // Others have one of them, and nobody the other: all the same.
    let other = worker(&*queue).await;
    assert_eq!(queue.claim(other, &want(1)).await.unwrap().len(), 1);

    assert_eq!(queue.alive(paused).await.unwrap(), Alive::No);
    assert!(queue.claim(paused, &want(8)).await.unwrap().is_empty());
    let graves = Graves::default();
    let late = [
        ended(&held[0], Ending::Done),
        ended(
            &held[1],
            Ending::Dead {
                attempts: 9,
                history: crate::support::make::json("[]"),
            },
        ),
    ];
    let refused = queue.finish(paused, &late, &graves).await.unwrap();
    assert_eq!(refused.len(), 2);
    assert!(graves.0.lock().unwrap().is_empty(), "nothing is buried");
    assert!(!queue.is_empty().await.unwrap());
    queue.register(paused, "again").await.unwrap();
    assert!(matches!(
        queue.alive(paused).await.unwrap(),
        Alive::Yes { .. }
    ));
}

pub(crate) async fn signs_of_life_keep_what_is_held(fixture: &dyn Fixture) {
    // One that did not run for a lease gave no sign for so long, which shows nothing.
    eventually("signs of life come in time", async || {
        signs_that_come_in_time_keep_what_is_held(fixture).await
    })
    .await;
}

/// Nothing where they did not come in time.
async fn signs_that_come_in_time_keep_what_is_held(fixture: &dyn Fixture) -> Option<()> {
    let listener = format!("shop/{}", uuid::Uuid::new_v4());
    let (calm, hasty) = (
        fixture.open(&listener, CALM).await,
        fixture.open(&listener, HASTY).await,
    );
    let live = worker(&*calm).await;
    add(&*calm, fixture.pool(), &[job(&lane(1), 0)]).await;
    let held = calm.claim(live, &want(8)).await.unwrap();
    let gone = worker(&*calm).await;
    add(&*calm, fixture.pool(), &[job(&lane(2), 1)]).await;
    let silent = calm.claim(gone, &want(8)).await.unwrap();
    let mut sign = Instant::now();
    assert!(matches!(
        hasty.alive(live).await.unwrap(),
        Alive::Yes { .. }
    ));
    // From here on this one gives none, and the other one goes on until it is gone.
    assert!(matches!(
        hasty.alive(gone).await.unwrap(),
        Alive::Yes { .. }
    ));
    let mut patience = Patience::default();
    let mut expired = 0;
    while expired < silent[0].jobs.len() as u64 {
        assert!(patience.lasts(), "{expired} claims are taken back");
        let next = Instant::now();
        let told = hasty.alive(live).await.unwrap();
        if told == Alive::No {
            assert!(
                sign.elapsed() >= HASTY.lease,
                "gone before its lease is over"
            );
            return None;
        }
        sign = next;
        expired += hasty.keep().await.unwrap().expired;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let done = [ended(&held[0].jobs[0], Ending::Done)];
    let refused = hasty.finish(live, &done, &Graves::default()).await.unwrap();
    if sign.elapsed() >= HASTY.lease {
        return None;
    }
    assert_eq!(refused, [], "its signs of life were in time");
    Some(())
}

pub(crate) async fn leave_gives_back_without_counting(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let (leaving, other) = (worker(&*queue).await, worker(&*queue).await);
    let jobs: Vec<_> = (0..4).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let held = queue.claim(leaving, &want(8)).await.unwrap();
    let first = &held[0].jobs[0];
    let done = [ended(first, Ending::Done)];
    queue
        .finish(leaving, &done, &Graves::default())
        .await
        .unwrap();
    queue.leave(leaving).await.unwrap();
    let runs = queue.claim(other, &want(8)).await.unwrap();
    let ids: Vec<_> = runs[0]
        .jobs
        .iter()
        .map(|one| (one.job.log_id, one.attempts))
        .collect();
    assert_eq!(ids[0], (1, 0));
    assert_eq!(queue.alive(leaving).await.unwrap(), Alive::No);
}

pub(crate) async fn registering_again_forgets_what_was_held(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &[job(&lane(1), 0)]).await;
    let held = queue.claim(worker, &want(8)).await.unwrap();
    queue.register(worker, "restarted").await.unwrap();
    let late = [ended(&held[0].jobs[0], Ending::Done)];
    let refused = queue
        .finish(worker, &late, &Graves::default())
        .await
        .unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!(work_off(&*queue, worker, &want(8)).await, [0]);
}

pub(crate) async fn who_is_not_registered_gets_nothing(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    add(&*queue, fixture.pool(), &[job(&lane(1), 0)]).await;
    let nobody = WorkerId(uuid::Uuid::new_v4());
    assert!(queue.claim(nobody, &want(8)).await.unwrap().is_empty());
    assert_eq!(queue.alive(nobody).await.unwrap(), Alive::No);
    queue.leave(nobody).await.unwrap();
}

pub(crate) async fn what_is_delayed_comes_when_it_is_due(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 0), job(&lane(2), 1)],
    )
    .await;
    let runs = queue.claim(worker, &want(8)).await.unwrap();
    let all: Vec<_> = runs
        .iter()
        .flat_map(|run| &run.jobs)
        .map(|one| ended(one, again(one, Duration::from_millis(100))))
        .collect();
    assert_eq!(
        queue
            .finish(worker, &all, &Graves::default())
            .await
            .unwrap(),
        []
    );
    let mut seen = Vec::new();
    let mut patience = Patience::default();
    while seen.len() < 2 {
        assert!(patience.lasts(), "only {seen:?} came");
        for run in queue.claim(worker, &want(8)).await.unwrap() {
            let one = &run.jobs[0];
            assert_eq!(one.attempts, 1);
            assert!(one.history.get().contains("no answer"));
            seen.push(one.job.log_id);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1]);
}

pub(crate) async fn what_is_given_up_is_buried_once(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 0), job(&lane(1), 1)],
    )
    .await;
    let runs = queue.claim(worker, &want(8)).await.unwrap();
    let graves = Graves::default();
    let dead = Ending::Dead {
        attempts: 3,
        history: crate::support::make::json("[]"),
    };
    let first = &runs[0].jobs[0];
    let all = [ended(first, dead)];
    assert_eq!(queue.finish(worker, &all, &graves).await.unwrap(), []);
    assert_eq!(
        *graves.0.lock().unwrap(),
        std::slice::from_ref(&first.job.id)
    );
    assert_eq!(queue.finish(worker, &all, &graves).await.unwrap().len(), 1);
    assert_eq!(graves.0.lock().unwrap().len(), 1);
    let next = queue.firsts(&[lane(1)]).await.unwrap()[0].clone().unwrap();
    assert_eq!(next.log_id, 1);
}
