//! The driver against an imitation of the API server. Time is paused: it moves on only when
//! everybody waits.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fake::{BROKEN, DEAF, Fake, Fate, Kind};
use crate::lease::Timing;

const SECOND: Duration = Duration::from_secs(1);

/// A member with a caller that takes every hold and drops it when it is to.
struct Member {
    status: watch::Receiver<MembershipStatus>,
    stop: CancellationToken,
    joined: JoinHandle<()>,
    working: JoinHandle<()>,
}

fn options(fake: &Fake, pod: &str) -> MembershipConfig {
    MembershipConfig {
        store: Arc::new(fake.clone()),
        listener: "shop".to_owned(),
        pod: pod.to_owned(),
        uid: "uid".to_owned(),
        timing: Timing::default(),
        labels: BTreeMap::from([("app".to_owned(), "shop".to_owned())]),
        shard_lease_owners: Vec::new(),
        member_lease_owners: Vec::new(),
        known_dead: Arc::new(|_| false),
    }
}

/// Works until the hold is lost or to leave; takes `drain` for leaving.
async fn work(hold: ShardLease, drain: Duration) {
    tokio::select! {
        biased;
        () = hold.lost().cancelled() => {}
        () = hold.release_requested().cancelled() => sleep(drain).await,
    }
}

impl Member {
    fn join(fake: &Fake, pod: &str, shards: &watch::Sender<u16>) -> Self {
        Self::with(options(fake, pod), shards)
    }

    fn with(options: MembershipConfig, shards: &watch::Sender<u16>) -> Self {
        let (sender, mut holds) = mpsc::channel(4);
        let (statuses, status) = watch::channel(MembershipStatus::default());
        let stop = CancellationToken::new();
        let joined = join(options, shards.subscribe(), sender, statuses, stop.clone());
        let working = tokio::spawn(async move {
            while let Some(hold) = holds.recv().await {
                tokio::spawn(work(hold, Duration::from_millis(50)));
            }
        });
        Self {
            status,
            stop,
            joined: tokio::spawn(joined),
            working,
        }
    }

    fn shards(&self) -> BTreeSet<u16> {
        let status = self.status.borrow();
        let held = status.shards.iter().filter(|seat| seat.held);
        held.map(|seat| seat.shard).collect()
    }

    fn identity(&self) -> Option<String> {
        self.status.borrow().identity.clone()
    }

    /// Dies without a word.
    fn kill(self) {
        self.joined.abort();
        self.working.abort();
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(60 * SECOND, self.joined).await.unwrap().unwrap();
        self.working.abort();
    }
}

/// Waits until `condition` holds, and says after how much of the paused time that was: what is
/// promised of it is the same on a machine of any speed.
async fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

fn all_owned(members: &[Member], shards: u16) -> bool {
    let held: Vec<u16> = members.iter().flat_map(Member::shards).collect();
    let loads = || members.iter().map(|member| member.shards().len());
    held.len() == usize::from(shards)
        && held.iter().collect::<BTreeSet<_>>().len() == held.len()
        && loads().max().unwrap() - loads().min().unwrap() <= 1
}

fn fleet(fake: &Fake, count: usize, shards: &watch::Sender<u16>) -> Vec<Member> {
    let join = |n| Member::join(fake, &format!("shop-{n}"), shards);
    (0..count).map(join).collect()
}

#[tokio::test(start_paused = true)]
async fn one_member_takes_all_shards_at_once() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(16));
    let members = fleet(&fake, 1, &shards);
    let took = until(5 * SECOND, || all_owned(&members, 16)).await;
    assert!(took < SECOND, "{took:?}");
    let lease = fake.named("shop-shard-3-of-16").unwrap();
    let labels = lease.metadata.labels.unwrap();
    assert_eq!(labels["observers.fraiseql.dev/lease"], "shard");
    assert_eq!(labels["app"], "shop");
    assert_eq!(
        fake.named("shop-0").unwrap().metadata.labels.unwrap()["observers.fraiseql.dev/lease"],
        "member"
    );
    assert_eq!(fake.holder_of("shop-0"), members[0].identity());
    assert_eq!(members[0].status.borrow().members, 1);
}

#[tokio::test(start_paused = true)]
async fn members_share_the_shards_and_take_over_from_each_other() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(16));
    let mut members = fleet(&fake, 3, &shards);
    until(60 * SECOND, || all_owned(&members, 16)).await;
    // What one leaves in good order is taken at once.
    members.swap_remove(0).stop().await;
    let took = until(5 * SECOND, || all_owned(&members, 16)).await;
    assert!(took < SECOND, "{took:?}");
    assert!(fake.named("shop-0").is_none());
    // One that dies is waited for.
    members.swap_remove(0).kill();
    let took = until(30 * SECOND, || all_owned(&members, 16)).await;
    assert!(took > 10 * SECOND && took < 17 * SECOND, "{took:?}");
    // And its Lease goes, as nothing names it any more.
    until(30 * SECOND, || fake.leases().len() == 17).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_known_to_be_dead_is_not_waited_for() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(8));
    let first = Member::join(&fake, "shop-0", &shards);
    until(5 * SECOND, || first.shards().len() == 8).await;
    let gone = first.identity().unwrap();
    first.kill();
    let known_dead: Arc<dyn Fn(&str) -> bool + Send + Sync> = Arc::new(move |id| id == gone);
    let second = [Member::with(
        MembershipConfig {
            known_dead,
            ..options(&fake, "shop-0")
        },
        &shards,
    )];
    let took = until(10 * SECOND, || all_owned(&second, 8)).await;
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_shards_changes_under_way() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(4));
    let members = fleet(&fake, 3, &shards);
    until(60 * SECOND, || all_owned(&members, 4)).await;
    shards.send_replace(10);
    let took = until(30 * SECOND, || all_owned(&members, 10)).await;
    assert!(took < 3 * SECOND, "{took:?}");
    until(10 * SECOND, || fake.leases().len() == 13).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_lease_is_lost_joins_anew_at_once() {
    for taken in [false, true] {
        let (fake, shards) = (Fake::new(), watch::Sender::new(4));
        let members = fleet(&fake, 1, &shards);
        until(5 * SECOND, || all_owned(&members, 4)).await;
        let before = members[0].identity();
        fake.meddle_with("shop-0", |lease| {
            lease.spec.get_or_insert_default().holder_identity = None;
            taken
        });
        until(SECOND, || members[0].identity() != before).await;
        // What a deleted Lease stood for is known to be over by the one whose it was.
        let took = until(20 * SECOND, || all_owned(&members, 4)).await;
        assert!(took < SECOND, "{took:?}");
        assert_ne!(members[0].identity(), before);
    }
}

/// A member that takes holds and keeps them, whatever they say.
struct Stubborn {
    holds: mpsc::Receiver<ShardLease>,
    joined: JoinHandle<()>,
    stop: CancellationToken,
}

fn stubborn(fake: &Fake, shards: &watch::Sender<u16>) -> Stubborn {
    let (sender, holds) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let status = watch::Sender::new(MembershipStatus::default());
    let options = options(fake, "shop-0");
    let joined = tokio::spawn(join(
        options,
        shards.subscribe(),
        sender,
        status,
        stop.clone(),
    ));
    Stubborn {
        holds,
        joined,
        stop,
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_at_the_deadline_and_its_shard_comes_back_after_it_was_dropped() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(1));
    let mut member = stubborn(&fake, &shards);
    let hold = member.holds.recv().await.unwrap();
    assert_eq!((hold.shard(), hold.shard_count()), (0, 1));
    fake.always(DEAF);
    let began = Instant::now();
    hold.lost().cancelled().await;
    // Counted from before the renewal that succeeded last, up to 4.8 s ago.
    let lasted = began.elapsed();
    assert!(lasted <= 10 * SECOND && lasted >= 5 * SECOND, "{lasted:?}");
    fake.always(Fate::default());
    assert!(timeout(60 * SECOND, member.holds.recv()).await.is_err());
    let before = hold.holder().to_owned();
    drop(hold);
    let again = timeout(SECOND, member.holds.recv()).await.unwrap().unwrap();
    assert_ne!(again.holder(), before);
    assert!(!again.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_ends_the_hold_and_is_made_again_by_the_same_member() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(1));
    let mut member = stubborn(&fake, &shards);
    let hold = member.holds.recv().await.unwrap();
    let _others = fleet(&fake, 3, &watch::Sender::new(1)).split_off(1);
    sleep(10 * SECOND).await;
    fake.meddle_with("shop-shard-0-of-1", |_| false);
    timeout(SECOND, hold.lost().cancelled()).await.unwrap();
    let before = hold.holder().to_owned();
    // The others leave it alone as long as they may.
    sleep(25 * SECOND).await;
    assert!(fake.named("shop-shard-0-of-1").is_none());
    drop(hold);
    let again = timeout(SECOND, member.holds.recv()).await.unwrap().unwrap();
    assert_eq!(again.holder(), before);
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_the_holds_and_gives_them_up() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(2));
    let mut member = stubborn(&fake, &shards);
    let holds = [
        member.holds.recv().await.unwrap(),
        member.holds.recv().await.unwrap(),
    ];
    member.stop.cancel();
    for hold in &holds {
        hold.release_requested().cancelled().await;
        assert!(!hold.lost().is_cancelled());
    }
    sleep(30 * SECOND).await;
    assert!(!member.joined.is_finished() && !holds[0].lost().is_cancelled());
    // The others know that it takes on nothing.
    let annotations = fake.named("shop-0").unwrap().metadata.annotations;
    assert!(annotations.is_none_or(|a| !a.contains_key("observers.fraiseql.dev/shards")));
    drop(holds);
    timeout(SECOND, member.joined).await.unwrap().unwrap();
    assert!(fake.named("shop-0").is_none());
    assert_eq!(fake.leases().len(), 2);
    assert!(
        fake.leases()
            .values()
            .all(|lease| lease.spec.as_ref().unwrap().holder_identity.is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_is_bounded_when_nothing_can_be_given_up() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(2));
    let mut member = stubborn(&fake, &shards);
    let hold = member.holds.recv().await.unwrap();
    fake.always(DEAF);
    member.stop.cancel();
    drop((hold, member.holds));
    let began = Instant::now();
    timeout(60 * SECOND, member.joined).await.unwrap().unwrap();
    assert!(began.elapsed() < 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_dropped_over_and_over_is_not_claimed_in_a_storm() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(1));
    let mut member = stubborn(&fake, &shards);
    fake.forget_calls();
    let began = Instant::now();
    let mut holds = 0;
    while began.elapsed() < 120 * SECOND {
        if let Ok(Some(hold)) = timeout(SECOND, member.holds.recv()).await {
            drop(hold);
            holds += 1;
        }
    }
    assert!((5..=15).contains(&holds), "{holds} holds");
}

#[tokio::test(start_paused = true)]
async fn troubles_of_all_kinds_come_right() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(16));
    let members = fleet(&fake, 4, &shards);
    until(60 * SECOND, || all_owned(&members, 16)).await;
    for code in [500, 409, 429, 403] {
        fake.fail_with(code);
        fake.always(BROKEN);
        fake.forget_calls();
        sleep(60 * SECOND).await;
        let calls = fake.moments(Kind::Write).len() + fake.calls(Kind::Get);
        assert!(
            calls < 4 * 60 * 2,
            "{code}: {calls} calls in a minute by 4 members"
        );
        fake.always(Fate::default());
        let took = until(60 * SECOND, || all_owned(&members, 16)).await;
        assert!(took < 30 * SECOND, "{code}: {took:?}");
    }
    fake.always(DEAF);
    sleep(60 * SECOND).await;
    fake.always(Fate::default());
    until(60 * SECOND, || all_owned(&members, 16)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_has_silently_died_is_found_out() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(4));
    let mut members = fleet(&fake, 2, &shards);
    until(60 * SECOND, || all_owned(&members, 4)).await;
    fake.deafen(true);
    fake.deafen(false);
    members.pop().unwrap().stop().await;
    let took = until(60 * SECOND, || all_owned(&members, 4)).await;
    assert!(took < 18 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_who_may_not_watch_says_so_and_lists_now_and_then() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(4));
    fake.forbid_watching();
    let members = fleet(&fake, 2, &shards);
    until(60 * SECOND, || all_owned(&members, 4)).await;
    let outage = members[0].status.borrow().outage.clone().unwrap();
    assert!(outage.contains("grant get, list, watch"), "{outage}");
    fake.forget_calls();
    sleep(60 * SECOND).await;
    let lists = fake.calls(Kind::List);
    assert!(
        (30..=60).contains(&lists),
        "{lists} lists in a minute by 2 members"
    );
    assert!(all_owned(&members, 4));
}

mod many;
mod rollout;
