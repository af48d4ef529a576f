//! Time is paused in these tests: it advances only when all tasks wait.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::soak::rounds;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::testing::fake_api_server::{
    CallBehaviour, CallKind, DROP_REQUEST, DROP_RESPONSE, FAIL, FakeApiServer,
};

const SECOND: Duration = Duration::from_secs(1);
fn elector(server: &FakeApiServer, pod: &str) -> Elector {
    Elector::with_store(
        Arc::new(server.clone()),
        "shop".to_owned(),
        Identity::new(pod, "uid"),
        Timing::default(),
        BTreeMap::new(),
    )
}

async fn acquire(elector: &mut Elector) -> Leadership {
    let stop = CancellationToken::new();
    timeout(600 * SECOND, elector.acquire(&stop))
        .await
        .unwrap()
        .unwrap()
}

/// Spawns an elector that stands by until the current holder is gone.
fn spawn_standby(server: &FakeApiServer) -> tokio::task::JoinHandle<(Leadership, Instant)> {
    let mut second = elector(server, "b");
    tokio::spawn(async move {
        let leadership = acquire(&mut second).await;
        (leadership, Instant::now())
    })
}

#[tokio::test(start_paused = true)]
async fn missing_lease_is_created_and_renewed() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    sleep(60 * SECOND).await;
    assert!(!first.lost().is_cancelled());
    assert_eq!(
        server.lease().unwrap().spec.unwrap().lease_transitions,
        Some(0)
    );
    // One write each 3 s, and nothing else.
    assert!((20..=26).contains(&server.calls(CallKind::Write)));
    assert_eq!(server.calls(CallKind::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn released_lease_is_acquired_at_once() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    let second = spawn_standby(&server);
    sleep(30 * SECOND).await;
    let (lost, released) = (first.lost().clone(), Instant::now());
    first.release().await;
    assert!(lost.is_cancelled());
    let (_second, at) = second.await.unwrap();
    assert!(at - released < Duration::from_millis(10));
    assert_eq!(
        server.lease().unwrap().spec.unwrap().lease_transitions,
        Some(1)
    );
    assert_eq!(server.calls(CallKind::Watch), 1);
    assert_eq!(server.calls(CallKind::Get), 2);
}

#[tokio::test(start_paused = true)]
async fn elector_polls_when_watch_is_forbidden() {
    let server = FakeApiServer::new();
    server.forbid_watching();
    let first = acquire(&mut elector(&server, "a")).await;
    let second = spawn_standby(&server);
    sleep(30 * SECOND).await;
    let released = Instant::now();
    first.release().await;
    let (_second, at) = second.await.unwrap();
    assert!(at - released < Duration::from_millis(2500));
    assert_eq!(server.calls(CallKind::Watch), 1);
    assert!((12..=22).contains(&server.calls(CallKind::Get)));
}

#[tokio::test(start_paused = true)]
async fn ended_watch_is_restarted() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    let second = spawn_standby(&server);
    sleep(30 * SECOND).await;
    server.close_watches();
    sleep(5 * SECOND).await;
    assert_eq!(server.calls(CallKind::Watch), 2);
    let released = Instant::now();
    first.release().await;
    assert!(second.await.unwrap().1 - released < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn standby_waits_for_a_dead_holders_lease_to_expire() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    let second = spawn_standby(&server);
    sleep(30 * SECOND).await;
    let lost = first.lost().clone();
    drop(first);
    assert!(lost.is_cancelled());
    let died = Instant::now();
    let waited = second.await.unwrap().1 - died;
    assert!(waited >= 12 * SECOND && waited <= 15 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn renew_deadline_counts_from_before_the_request() {
    let server = FakeApiServer::new();
    let slow = CallBehaviour {
        response_delay: Duration::from_millis(1900),
        ..CallBehaviour::default()
    };
    server.queue_behaviours([CallBehaviour::default(), slow]);
    let began = Instant::now();
    let first = acquire(&mut elector(&server, "a")).await;
    assert_eq!(Instant::now() - began, Duration::from_millis(1900));
    server.set_behaviour(DROP_REQUEST);
    first.lost().cancelled().await;
    let held = Instant::now() - began;
    assert!(held <= 10 * SECOND + Duration::from_millis(2), "{held:?}");
    assert!(held >= 10 * SECOND, "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn holder_survives_outages_shorter_than_its_deadline() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    // Renewals have jitter, so outages begin at many different moments between them.
    for _ in 0..200 {
        for fault in [DROP_REQUEST, DROP_RESPONSE, FAIL] {
            server.set_behaviour(fault);
            sleep(5 * SECOND).await;
            server.set_behaviour(CallBehaviour::default());
            sleep(10 * SECOND).await;
            assert!(!first.lost().is_cancelled(), "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_renewal_task_ends_leadership() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    server.panic_on_calls();
    let began = Instant::now();
    first.lost().cancelled().await;
    assert!(Instant::now() - began < 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn lease_taken_over_or_deleted_is_lost() {
    for deleted in [false, true] {
        let server = FakeApiServer::new();
        let first = acquire(&mut elector(&server, "a")).await;
        server.modify_externally(|lease| {
            lease.spec.get_or_insert_default().holder_identity = Some("other".to_owned());
            !deleted
        });
        let began = Instant::now();
        first.lost().cancelled().await;
        assert!(Instant::now() - began < 5 * SECOND);
        // A release does not touch another holder's Lease.
        let held = server.lease();
        first.release().await;
        assert_eq!(server.lease(), held);
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_label_survives_and_costs_one_get() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    server.modify_externally(|lease| {
        let labels = lease.metadata.labels.get_or_insert_default();
        labels.insert("k".to_owned(), "v".to_owned());
        true
    });
    sleep(30 * SECOND).await;
    assert!(!first.lost().is_cancelled());
    assert_eq!(server.lease().unwrap().metadata.labels.unwrap()["k"], "v");
    assert_eq!(server.calls(CallKind::Get), 2);
}

#[tokio::test(start_paused = true)]
async fn standby_waits_when_the_lease_is_deleted() {
    let server = FakeApiServer::new();
    let first = acquire(&mut elector(&server, "a")).await;
    let second = spawn_standby(&server);
    sleep(30 * SECOND).await;
    server.modify_externally(|_| false);
    first.lost().cancelled().await;
    let lost = Instant::now();
    let (_second, at) = second.await.unwrap();
    assert!(at - lost > 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn claim_without_response_is_recovered() {
    let server = FakeApiServer::new();
    server.queue_behaviours([CallBehaviour::default(), DROP_RESPONSE]);
    let began = Instant::now();
    let _first = acquire(&mut elector(&server, "a")).await;
    assert!(Instant::now() - began < 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn stopped_elector_leaves_no_holder() {
    // Stopped on standby, during a claim that gets a response, and during one that does not.
    for (behaviours, after) in [
        (vec![], 0),
        (
            vec![
                CallBehaviour::default(),
                CallBehaviour {
                    response_delay: SECOND,
                    ..CallBehaviour::default()
                },
            ],
            500,
        ),
        (vec![CallBehaviour::default(), DROP_RESPONSE], 2500),
    ] {
        let server = FakeApiServer::new();
        server.queue_behaviours(behaviours);
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(after)).await;
            stopping.cancel();
        });
        tokio::task::yield_now().await;
        if after == 0 {
            stop.cancel();
        }
        let mut elector = elector(&server, "a");
        assert!(elector.acquire(&stop).await.is_none());
        assert_eq!(server.holder(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn release_wins_over_a_renewal_in_flight_and_is_bounded() {
    let server = FakeApiServer::new();
    // A renewal is in flight, and arrives, during the release.
    let first = acquire(&mut elector(&server, "a")).await;
    server.queue_behaviours([CallBehaviour {
        request_delay: 50 * Duration::from_millis(1),
        ..CallBehaviour::default()
    }]);
    let writes = server.calls(CallKind::Write);
    while server.calls(CallKind::Write) == writes {
        sleep(Duration::from_millis(1)).await;
    }
    first.release().await;
    sleep(SECOND).await;
    assert_eq!(server.holder(), None);

    let first = acquire(&mut elector(&server, "a")).await;
    server.set_behaviour(DROP_REQUEST);
    let began = Instant::now();
    first.release().await;
    assert!(Instant::now() - began <= 4 * SECOND + Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn new_leadership_ends_the_previous_one() {
    let server = FakeApiServer::new();
    let mut elector = elector(&server, "a");
    let first = acquire(&mut elector).await;
    let second = acquire(&mut elector).await;
    assert!(first.lost().is_cancelled());
    assert!(!second.lost().is_cancelled());
}

/// Draws the behaviour of a call: mostly healthy.
fn random_behaviour(random: &mut StdRng) -> CallBehaviour {
    let mut wait = |longest: u64| Duration::from_millis(random.random_range(0..longest));
    let (request_delay, response_delay) = match wait(10).as_millis() {
        0 => (wait(20_000), wait(20_000)),
        1 => (wait(3000), wait(3000)),
        _ => (wait(50), wait(50)),
    };
    CallBehaviour {
        request_delay,
        response_delay,
        fails: random.random_bool(0.05),
    }
}

/// Plays one pod: it holds the Lease, releases it or crashes, and comes back.
async fn run_pod(server: FakeApiServer, seed: u64, holders: Arc<Mutex<Vec<CancellationToken>>>) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let leadership = acquire(&mut elector(&server, "pod")).await;
        {
            let mut holders = holders.lock().unwrap();
            if !leadership.lost().is_cancelled() {
                assert!(holders.iter().all(CancellationToken::is_cancelled));
            }
            holders.push(leadership.lost().clone());
        }
        let term = Duration::from_millis(random.random_range(0..60_000));
        let held = timeout(term, leadership.lost().cancelled()).await;
        if held.is_err() && random.random_bool(0.5) {
            leadership.release().await;
        }
        sleep(Duration::from_millis(random.random_range(0..5000))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn random_faults_never_yield_two_leaders() {
    for seed in 0..u64::from(rounds(8, 50)) {
        let server = FakeApiServer::new();
        let holders = Arc::new(Mutex::new(Vec::new()));
        let mut random = StdRng::seed_from_u64(seed);
        let mut pods = JoinSet::new();
        for pod in 0..4 {
            pods.spawn(run_pod(
                server.clone(),
                seed * 10 + pod,
                Arc::clone(&holders),
            ));
        }
        for _ in 0..600 {
            server.queue_behaviours([random_behaviour(&mut random)]);
            if random.random_bool(0.01) {
                server.close_watches();
            }
            tokio::select! {
                () = sleep(SECOND) => {}
                Some(died) = pods.join_next() => panic!("seed {seed}: {died:?}"),
            }
        }
        let terms = holders.lock().unwrap().len();
        assert!(terms > 5, "seed {seed}: only {terms} terms");
    }
}
