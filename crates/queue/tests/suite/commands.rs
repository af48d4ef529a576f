//! What people ask and command.

use std::time::Duration;

use observer_queue::{HeartbeatResponse, JobFilter, JobOutcome, JobState, QueueConfig};

use crate::support::builders::{
    OBSERVER, RecordedDeadLetters, add, again, complete_all, complete_batch, ended, job, lane,
    lane_of, request, request_for, worker,
};
use crate::support::{CALM, Fixture, LISTENER, eventually};

fn in_state(state: JobState) -> JobFilter {
    JobFilter {
        state: Some(state),
        ..JobFilter::default()
    }
}

pub(crate) async fn pending_jobs_are_cancelled(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let jobs: Vec<_> = (0..4).map(|log_id| job(&lane(1), log_id)).collect();
    add(&*queue, fixture.pool(), &jobs).await;
    let these = JobFilter {
        ids: Some(vec![
            jobs[0].job.id.clone(),
            jobs[2].job.id.clone(),
            "none".to_owned(),
        ]),
        ..JobFilter::default()
    };
    assert_eq!(queue.cancel(&these).await.unwrap(), 2);
    assert_eq!(queue.cancel(&these).await.unwrap(), 0);
    let left = complete_all(&*queue, worker, &request(8)).await;
    assert_eq!(left, [1, 3]);
}

pub(crate) async fn cancelled_running_jobs_are_cut_off(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &[job(&lane(1), 0)]).await;
    let held = queue.claim(worker, &request(8)).await.unwrap();
    let held = &held[0].jobs[0];
    add(&*queue, fixture.pool(), &[job(&lane(1), 1)]).await;
    let this = JobFilter {
        ids: Some(vec![held.job.id.clone()]),
        ..JobFilter::default()
    };
    assert_eq!(queue.cancel(&this).await.unwrap(), 1);
    let told = queue.heartbeat(worker).await.unwrap();
    assert_eq!(
        told,
        HeartbeatResponse::Renewed {
            cancelled: vec![held.claim.clone()]
        }
    );
    // However it ended, it does not come again, and the next one does.
    let end = [ended(held, again(held, Duration::ZERO))];
    queue
        .finish(worker, &end, &RecordedDeadLetters::default())
        .await
        .unwrap();
    assert_eq!(complete_batch(&*queue, worker, &request(8)).await, [1]);
    assert!(queue.is_empty().await.unwrap());
}

pub(crate) async fn retry_makes_scheduled_jobs_due(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    let mut jobs = vec![
        job(&lane(1), 1),
        job(&lane(2), 2),
        job(&lane_of("shop/other", 3), 3),
    ];
    for new in &mut jobs {
        new.delay = Duration::from_hours(1);
    }
    add(&*queue, fixture.pool(), &jobs).await;
    let wanted = request_for(&[OBSERVER, "shop/other"], 8);
    assert!(queue.claim(worker, &wanted).await.unwrap().is_empty());
    let of_other = JobFilter {
        observer: Some("shop/other".to_owned()),
        ..JobFilter::default()
    };
    assert_eq!(queue.retry(&of_other).await.unwrap(), 1);
    assert_eq!(complete_batch(&*queue, worker, &wanted).await, [3]);
    assert_eq!(queue.retry(&JobFilter::default()).await.unwrap(), 2);
    assert_eq!(complete_batch(&*queue, worker, &wanted).await.len(), 2);
}

pub(crate) async fn jobs_are_listed_shown_and_counted(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(
        &*queue,
        fixture.pool(),
        &[job(&lane(1), 1), job(&lane(2), 3)],
    )
    .await;
    queue.claim(worker, &request(1)).await.unwrap();
    let mut late = job(&lane(5), 5);
    late.delay = Duration::from_hours(1);
    late.attempts = 5;
    add(
        &*queue,
        fixture.pool(),
        &[late, job(&lane(2), 4), job(&lane(1), 2)],
    )
    .await;

    let (all, count) = queue.list(&JobFilter::default(), 100).await.unwrap();
    assert_eq!((all.len(), count), (5, 5));
    let (some, count) = queue.list(&JobFilter::default(), 2).await.unwrap();
    assert_eq!((some.len(), count), (2, 5));
    for (state, expected) in [
        (JobState::Available, 1),
        (JobState::Scheduled, 1),
        (JobState::Running, 1),
        (JobState::Blocked, 2),
        (JobState::Completed, 0),
    ] {
        let (of_state, count) = queue.list(&in_state(state), 100).await.unwrap();
        assert_eq!(count, expected, "{state:?}");
        assert!(of_state.iter().all(|one| one.state == state));
    }
    let (running, _) = queue.list(&in_state(JobState::Running), 1).await.unwrap();
    assert_eq!(running[0].worker.as_deref(), Some("worker"));
    let shown = queue.show(&running[0].id).await.unwrap().unwrap();
    assert_eq!(shown.observer, OBSERVER);
    assert!(shown.event.unwrap().get().contains("new"));
    assert_eq!(shown.history.unwrap().get(), "[]");
    assert!(queue.show("none").await.unwrap().is_none());

    let wanted: Vec<String> = all.iter().map(|one| one.id.clone()).collect();
    let none = "none".to_owned();
    let mut found = queue.find(&[&wanted[..], &[none]].concat()).await.unwrap();
    found.sort_by_key(|one| wanted.iter().position(|id| *id == one.id));
    assert_eq!(
        found.iter().map(|one| &one.id).collect::<Vec<_>>(),
        wanted.iter().collect::<Vec<_>>()
    );
    assert!(found.iter().all(|one| one.history.is_some()));
    assert!(queue.find(&[]).await.unwrap().is_empty());

    let figures = queue.stats().await.unwrap();
    assert_eq!(figures.len(), 1);
    let (observer, figures) = &figures[0];
    assert_eq!(observer, OBSERVER);
    assert_eq!(
        (
            figures.pending,
            figures.available,
            figures.scheduled(),
            figures.running,
            figures.blocked
        ),
        (5, 1, 1, 1, 2)
    );
    assert_eq!(figures.by_attempts, [4, 0, 0, 1, 0]);
}

pub(crate) async fn lanes_with_jobs_are_listed_by_shard(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let mut jobs: Vec<_> = (0..20)
        .map(|hash| job(&lane(hash), i64::from(hash)))
        .collect();
    jobs.push(job(&lane(4), 100));
    jobs.push(job(&lane_of("shop/other", 8), 101));
    jobs.push(job(&lane_of("shop/none", 1), 102));
    add(&*queue, fixture.pool(), &jobs).await;
    let mut named = queue.lanes_with_jobs(&[0, 2], 4, 20).await.unwrap();
    named.sort_by(|one, other| one.observer.cmp(&other.observer));
    assert_eq!(named.len(), 2);
    let mut hashes = named[0].hashes.clone().unwrap();
    hashes.sort_unstable();
    assert_eq!(
        hashes,
        (0..20).filter(|hash| hash % 2 == 0).collect::<Vec<_>>()
    );
    assert_eq!(named[1].hashes, Some(vec![8]));
    let named = queue.lanes_with_jobs(&[0, 2], 4, 9).await.unwrap();
    let many = named.iter().find(|one| &*one.observer == OBSERVER).unwrap();
    assert_eq!(many.hashes, None);
}

pub(crate) async fn completed_jobs_are_kept_for_their_retention(fixture: &dyn Fixture) {
    let config = QueueConfig {
        retention: Duration::from_hours(1),
        ..CALM
    };
    let queue = fixture.open(LISTENER, config).await;
    let worker = worker(&*queue).await;
    add(&*queue, fixture.pool(), &[job(&lane(1), 1)]).await;
    let held = queue.claim(worker, &request(1)).await.unwrap();
    let held = &held[0].jobs[0];
    let end = [ended(held, JobOutcome::Completed)];
    assert_eq!(
        queue
            .finish(worker, &end, &RecordedDeadLetters::default())
            .await
            .unwrap(),
        []
    );
    assert!(
        queue.is_empty().await.unwrap(),
        "a finished one is not pending"
    );
    let (finished, count) = queue
        .list(&in_state(JobState::Completed), 10)
        .await
        .unwrap();
    assert_eq!((finished.len(), count), (1, 1));
    assert_eq!(
        queue.show(&held.job.id).await.unwrap().unwrap().state,
        JobState::Completed
    );
    let found = queue
        .find(std::slice::from_ref(&held.job.id))
        .await
        .unwrap();
    assert_eq!((found.len(), found[0].state), (1, JobState::Completed));
    assert!(
        queue
            .stats()
            .await
            .unwrap()
            .iter()
            .all(|(_, figures)| figures.pending == 0)
    );

    let soon = QueueConfig {
        retention: Duration::from_millis(1),
        ..CALM
    };
    let queue = fixture.open(LISTENER, soon).await;
    eventually("it is gone", async || {
        queue.run_maintenance().await.unwrap();
        let (_, count) = queue
            .list(&in_state(JobState::Completed), 10)
            .await
            .unwrap();
        (count == 0).then_some(())
    })
    .await;
}

pub(crate) async fn listeners_do_not_see_each_others_jobs(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    let other = fixture.open("shop/other", CALM).await;
    let (mine, theirs) = (worker(&*queue).await, worker(&*other).await);
    add(&*queue, fixture.pool(), &[job(&lane(1), 1)]).await;
    assert!(other.is_empty().await.unwrap());
    assert!(other.claim(theirs, &request(8)).await.unwrap().is_empty());
    assert_eq!(other.lane_heads(&[lane(1)]).await.unwrap(), [None]);
    assert_eq!(other.cancel(&JobFilter::default()).await.unwrap(), 0);
    assert_eq!(complete_batch(&*queue, mine, &request(8)).await, [1]);
}

pub(crate) async fn filter_by_tenant_holds_for_lists_and_commands(fixture: &dyn Fixture) {
    let queue = fixture.open(LISTENER, CALM).await;
    worker(&*queue).await;
    let mut jobs: Vec<_> = (0..6)
        .map(|n| job(&lane(u32::try_from(n).unwrap()), n))
        .collect();
    for (n, new) in jobs.iter_mut().enumerate() {
        new.delay = Duration::from_hours(1);
        new.job.tenant = [Some("acme"), Some("globex"), None][n % 3].map(str::to_owned);
    }
    add(&*queue, fixture.pool(), &jobs).await;
    let of = |ids: Option<&[usize]>| JobFilter {
        ids: ids.map(|ids| ids.iter().map(|n| jobs[*n].job.id.clone()).collect()),
        tenant: Some("acme".to_owned()),
        ..JobFilter::default()
    };
    let (listed, count) = queue.list(&of(None), 10).await.unwrap();
    assert_eq!((listed.len(), count), (2, 2));
    assert!(
        listed
            .iter()
            .all(|one| one.tenant.as_deref() == Some("acme"))
    );
    // Ids of others are none here.
    let (listed, count) = queue.list(&of(Some(&[0, 1, 2])), 10).await.unwrap();
    assert_eq!((listed.len(), count), (1, 1));
    let show = async |n: usize| {
        let id = &jobs[n].job.id;
        let shown = queue.show_of_tenant(id, Some("acme")).await.unwrap();
        (shown.is_some(), queue.show(id).await.unwrap().is_some())
    };
    assert_eq!(show(0).await, (true, true));
    assert_eq!(show(1).await, (false, true));
    assert_eq!(show(2).await, (false, true));
    assert_eq!(queue.retry(&of(Some(&[1, 2]))).await.unwrap(), 0);
    assert_eq!(queue.retry(&of(None)).await.unwrap(), 2);
    assert_eq!(queue.cancel(&of(Some(&[1, 2, 4, 5]))).await.unwrap(), 0);
    assert_eq!(queue.cancel(&of(None)).await.unwrap(), 2);
    // No job has an empty text, so a filter by one matches none, not all.
    let empty = || Some(String::new());
    let filters = [
        (empty(), None, None),
        (None, empty(), None),
        (None, None, empty()),
    ];
    for (observer, action, tenant) in filters {
        let filter = JobFilter {
            observer,
            action,
            tenant,
            ..JobFilter::default()
        };
        assert_eq!(queue.list(&filter, 10).await.unwrap().1, 0);
        assert_eq!(queue.retry(&filter).await.unwrap(), 0);
        assert_eq!(queue.cancel(&filter).await.unwrap(), 0);
    }
    assert_eq!(queue.list(&JobFilter::default(), 10).await.unwrap().1, 4);
}
