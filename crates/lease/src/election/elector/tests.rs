//! Time is paused in these tests: it moves on only when everybody waits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::soak::rounds;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::fake::{BROKEN, DEAF, Fake, Fate, Kind, MUTE};

const SECOND: Duration = Duration::from_secs(1);
fn elector(fake: &Fake, pod: &str) -> Elector {
    Elector::with_store(
        Arc::new(fake.clone()),
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

/// An elector that stands by behind a holder, until the task is awaited.
fn spawn_standby(fake: &Fake) -> tokio::task::JoinHandle<(Leadership, Instant)> {
    let mut second = elector(fake, "b");
    tokio::spawn(async move {
        let leadership = acquire(&mut second).await;
        (leadership, Instant::now())
    })
}

#[tokio::test(start_paused = true)]
async fn missing_lease_is_created_and_renewed() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    sleep(60 * SECOND).await;
    assert!(!first.lost().is_cancelled());
    assert_eq!(
        fake.lease().unwrap().spec.unwrap().lease_transitions,
        Some(0)
    );
    // One write each 3 s, and nothing else.
    assert!((20..=26).contains(&fake.calls(Kind::Write)));
    assert_eq!(fake.calls(Kind::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn released_lease_is_acquired_at_once() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    let second = spawn_standby(&fake);
    sleep(30 * SECOND).await;
    let (lost, released) = (first.lost().clone(), Instant::now());
    first.release().await;
    assert!(lost.is_cancelled());
    let (_second, at) = second.await.unwrap();
    assert!(at - released < Duration::from_millis(10));
    assert_eq!(
        fake.lease().unwrap().spec.unwrap().lease_transitions,
        Some(1)
    );
    assert_eq!(fake.calls(Kind::Watch), 1);
    assert_eq!(fake.calls(Kind::Get), 2);
}

#[tokio::test(start_paused = true)]
async fn elector_polls_when_watch_is_forbidden() {
    let fake = Fake::new();
    fake.forbid_watching();
    let first = acquire(&mut elector(&fake, "a")).await;
    let second = spawn_standby(&fake);
    sleep(30 * SECOND).await;
    let released = Instant::now();
    first.release().await;
    let (_second, at) = second.await.unwrap();
    assert!(at - released < Duration::from_millis(2500));
    assert_eq!(fake.calls(Kind::Watch), 1);
    assert!((12..=22).contains(&fake.calls(Kind::Get)));
}

#[tokio::test(start_paused = true)]
async fn ended_watch_is_restarted() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    let second = spawn_standby(&fake);
    sleep(30 * SECOND).await;
    fake.hang_up();
    sleep(5 * SECOND).await;
    assert_eq!(fake.calls(Kind::Watch), 2);
    let released = Instant::now();
    first.release().await;
    assert!(second.await.unwrap().1 - released < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn standby_waits_for_a_dead_holders_lease_to_expire() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    let second = spawn_standby(&fake);
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
    let fake = Fake::new();
    let slow = Fate {
        back: Duration::from_millis(1900),
        ..Fate::default()
    };
    fake.next([Fate::default(), slow]);
    let began = Instant::now();
    let first = acquire(&mut elector(&fake, "a")).await;
    assert_eq!(Instant::now() - began, Duration::from_millis(1900));
    fake.always(DEAF);
    first.lost().cancelled().await;
    let held = Instant::now() - began;
    assert!(held <= 10 * SECOND + Duration::from_millis(2), "{held:?}");
    assert!(held >= 10 * SECOND, "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn holder_survives_outages_shorter_than_its_deadline() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    // The renewals are spread at random, so the trouble comes at many moments of theirs.
    for _ in 0..200 {
        for trouble in [DEAF, MUTE, BROKEN] {
            fake.always(trouble);
            sleep(5 * SECOND).await;
            fake.always(Fate::default());
            sleep(10 * SECOND).await;
            assert!(!first.lost().is_cancelled(), "{trouble:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_renewal_task_ends_leadership() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    fake.panic();
    let began = Instant::now();
    first.lost().cancelled().await;
    assert!(Instant::now() - began < 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn lease_taken_over_or_deleted_is_lost() {
    for deleted in [false, true] {
        let fake = Fake::new();
        let first = acquire(&mut elector(&fake, "a")).await;
        fake.meddle(|lease| {
            lease.spec.get_or_insert_default().holder_identity = Some("other".to_owned());
            !deleted
        });
        let began = Instant::now();
        first.lost().cancelled().await;
        assert!(Instant::now() - began < 5 * SECOND);
        // Nothing that is not ours is given up.
        let held = fake.lease();
        first.release().await;
        assert_eq!(fake.lease(), held);
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_label_survives_and_costs_one_get() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    fake.meddle(|lease| {
        let labels = lease.metadata.labels.get_or_insert_default();
        labels.insert("k".to_owned(), "v".to_owned());
        true
    });
    sleep(30 * SECOND).await;
    assert!(!first.lost().is_cancelled());
    assert_eq!(fake.lease().unwrap().metadata.labels.unwrap()["k"], "v");
    assert_eq!(fake.calls(Kind::Get), 2);
}

#[tokio::test(start_paused = true)]
async fn standby_waits_when_the_lease_is_deleted() {
    let fake = Fake::new();
    let first = acquire(&mut elector(&fake, "a")).await;
    let second = spawn_standby(&fake);
    sleep(30 * SECOND).await;
    fake.meddle(|_| false);
    first.lost().cancelled().await;
    let lost = Instant::now();
    let (_second, at) = second.await.unwrap();
    assert!(at - lost > 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn claim_without_response_is_recovered() {
    let fake = Fake::new();
    fake.next([Fate::default(), MUTE]);
    let began = Instant::now();
    let _first = acquire(&mut elector(&fake, "a")).await;
    assert!(Instant::now() - began < 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn stopped_elector_leaves_no_holder() {
    // Stopped while standing by, in a claim that is answered, and in one that is not.
    for (fates, after) in [
        (vec![], 0),
        (
            vec![
                Fate::default(),
                Fate {
                    back: SECOND,
                    ..Fate::default()
                },
            ],
            500,
        ),
        (vec![Fate::default(), MUTE], 2500),
    ] {
        let fake = Fake::new();
        fake.next(fates);
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
        let mut elector = elector(&fake, "a");
        assert!(elector.acquire(&stop).await.is_none());
        assert_eq!(fake.holder(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn release_wins_over_a_renewal_in_flight_and_is_bounded() {
    let fake = Fake::new();
    // A renewal is under way, and lands, while the Lease is given up.
    let first = acquire(&mut elector(&fake, "a")).await;
    fake.next([Fate {
        there: 50 * Duration::from_millis(1),
        ..Fate::default()
    }]);
    let writes = fake.calls(Kind::Write);
    while fake.calls(Kind::Write) == writes {
        sleep(Duration::from_millis(1)).await;
    }
    first.release().await;
    sleep(SECOND).await;
    assert_eq!(fake.holder(), None);

    let first = acquire(&mut elector(&fake, "a")).await;
    fake.always(DEAF);
    let began = Instant::now();
    first.release().await;
    assert!(Instant::now() - began <= 4 * SECOND + Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn new_leadership_ends_the_previous_one() {
    let fake = Fake::new();
    let mut elector = elector(&fake, "a");
    let first = acquire(&mut elector).await;
    let second = acquire(&mut elector).await;
    assert!(first.lost().is_cancelled());
    assert!(!second.lost().is_cancelled());
}

/// Draws how calls fare: mostly well.
fn random_behaviour(random: &mut StdRng) -> Fate {
    let mut wait = |longest: u64| Duration::from_millis(random.random_range(0..longest));
    let (there, back) = match wait(10).as_millis() {
        0 => (wait(20_000), wait(20_000)),
        1 => (wait(3000), wait(3000)),
        _ => (wait(50), wait(50)),
    };
    Fate {
        there,
        back,
        fails: random.random_bool(0.05),
    }
}

/// Lives as one pod: holds, gives up, dies without a word, comes again.
async fn run_pod(fake: Fake, seed: u64, holders: Arc<Mutex<Vec<CancellationToken>>>) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let leadership = acquire(&mut elector(&fake, "pod")).await;
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
        let fake = Fake::new();
        let holders = Arc::new(Mutex::new(Vec::new()));
        let mut random = StdRng::seed_from_u64(seed);
        let mut pods = JoinSet::new();
        for pod in 0..4 {
            pods.spawn(run_pod(fake.clone(), seed * 10 + pod, Arc::clone(&holders)));
        }
        for _ in 0..600 {
            fake.next([random_behaviour(&mut random)]);
            if random.random_bool(0.01) {
                fake.hang_up();
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
