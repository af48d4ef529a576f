//! The driver against a fake API server. Time is paused: it advances only when all tasks wait.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::lease::Timing;
use crate::testing::fake_api_server::{CallBehaviour, CallKind, DROP_REQUEST, FAIL, FakeApiServer};

const SECOND: Duration = Duration::from_secs(1);

/// Member with a caller that receives every shard lease and drops it when requested.
struct TestMember {
    status: watch::Receiver<MembershipStatus>,
    stop: CancellationToken,
    driver: JoinHandle<()>,
    worker: JoinHandle<()>,
}

fn config(server: &FakeApiServer, pod: &str) -> MembershipConfig {
    MembershipConfig {
        store: Arc::new(server.clone()),
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

/// Works until the shard lease is lost or its release is requested; draining takes `drain`.
async fn hold_until_released(shard_lease: ShardLease, drain: Duration) {
    tokio::select! {
        biased;
        () = shard_lease.lost().cancelled() => {}
        () = shard_lease.release_requested().cancelled() => sleep(drain).await,
    }
}

impl TestMember {
    fn join(server: &FakeApiServer, pod: &str, shards: &watch::Sender<u16>) -> Self {
        Self::with(config(server, pod), shards)
    }

    fn with(config: MembershipConfig, shards: &watch::Sender<u16>) -> Self {
        let (sender, mut shard_leases) = mpsc::channel(4);
        let (statuses, status) = watch::channel(MembershipStatus::default());
        let stop = CancellationToken::new();
        let driver = join(config, shards.subscribe(), sender, statuses, stop.clone());
        let worker = tokio::spawn(async move {
            while let Some(shard_lease) = shard_leases.recv().await {
                tokio::spawn(hold_until_released(shard_lease, Duration::from_millis(50)));
            }
        });
        Self {
            status,
            stop,
            driver: tokio::spawn(driver),
            worker,
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

    /// Ends the process without a release.
    fn kill(self) {
        self.driver.abort();
        self.worker.abort();
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(60 * SECOND, self.driver).await.unwrap().unwrap();
        self.worker.abort();
    }
}

/// Waits until `condition` holds, and returns after how much paused time that was, which is the
/// same on a machine of any speed.
async fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

fn all_owned(members: &[TestMember], shards: u16) -> bool {
    let held: Vec<u16> = members.iter().flat_map(TestMember::shards).collect();
    let loads = || members.iter().map(|member| member.shards().len());
    held.len() == usize::from(shards)
        && held.iter().collect::<BTreeSet<_>>().len() == held.len()
        && loads().max().unwrap() - loads().min().unwrap() <= 1
}

fn join_members(
    server: &FakeApiServer,
    count: usize,
    shards: &watch::Sender<u16>,
) -> Vec<TestMember> {
    let join = |n| TestMember::join(server, &format!("shop-{n}"), shards);
    (0..count).map(join).collect()
}

#[tokio::test(start_paused = true)]
async fn single_member_acquires_all_shards_at_once() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(16));
    let members = join_members(&server, 1, &shards);
    let took = wait_for(5 * SECOND, || all_owned(&members, 16)).await;
    assert!(took < SECOND, "{took:?}");
    let lease = server.lease_named("shop-shard-3-of-16").unwrap();
    let labels = lease.metadata.labels.unwrap();
    assert_eq!(labels["observers.fraiseql.dev/lease"], "shard");
    assert_eq!(labels["app"], "shop");
    assert_eq!(
        server
            .lease_named("shop-0")
            .unwrap()
            .metadata
            .labels
            .unwrap()["observers.fraiseql.dev/lease"],
        "member"
    );
    assert_eq!(server.holder_of("shop-0"), members[0].identity());
    assert_eq!(members[0].status.borrow().members, 1);
}

#[tokio::test(start_paused = true)]
async fn members_balance_shards_and_take_over() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(16));
    let mut members = join_members(&server, 3, &shards);
    wait_for(60 * SECOND, || all_owned(&members, 16)).await;
    // What a member releases on shutdown is acquired at once.
    members.swap_remove(0).stop().await;
    let took = wait_for(5 * SECOND, || all_owned(&members, 16)).await;
    assert!(took < SECOND, "{took:?}");
    assert!(server.lease_named("shop-0").is_none());
    // The shards of a member that crashes are acquired after its Lease has expired.
    members.swap_remove(0).kill();
    let took = wait_for(30 * SECOND, || all_owned(&members, 16)).await;
    assert!(took > 10 * SECOND && took < 17 * SECOND, "{took:?}");
    // Its Lease is deleted once no shard's Lease names it.
    wait_for(30 * SECOND, || server.leases().len() == 17).await;
}

#[tokio::test(start_paused = true)]
async fn known_dead_process_is_replaced_at_once() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(8));
    let first = TestMember::join(&server, "shop-0", &shards);
    wait_for(5 * SECOND, || first.shards().len() == 8).await;
    let gone = first.identity().unwrap();
    first.kill();
    let known_dead: Arc<dyn Fn(&str) -> bool + Send + Sync> = Arc::new(move |id| id == gone);
    let second = [TestMember::with(
        MembershipConfig {
            known_dead,
            ..config(&server, "shop-0")
        },
        &shards,
    )];
    let took = wait_for(10 * SECOND, || all_owned(&second, 8)).await;
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn shard_count_changes_at_runtime() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(4));
    let members = join_members(&server, 3, &shards);
    wait_for(60 * SECOND, || all_owned(&members, 4)).await;
    shards.send_replace(10);
    let took = wait_for(30 * SECOND, || all_owned(&members, 10)).await;
    assert!(took < 3 * SECOND, "{took:?}");
    wait_for(10 * SECOND, || server.leases().len() == 13).await;
}

#[tokio::test(start_paused = true)]
async fn member_that_loses_its_lease_rejoins_at_once() {
    for taken in [false, true] {
        let (server, shards) = (FakeApiServer::new(), watch::Sender::new(4));
        let members = join_members(&server, 1, &shards);
        wait_for(5 * SECOND, || all_owned(&members, 4)).await;
        let before = members[0].identity();
        server.modify_lease_externally("shop-0", |lease| {
            lease.spec.get_or_insert_default().holder_identity = None;
            taken
        });
        wait_for(SECOND, || members[0].identity() != before).await;
        // The member itself knows that its former identity, named by a deleted Lease, has ended.
        let took = wait_for(20 * SECOND, || all_owned(&members, 4)).await;
        assert!(took < SECOND, "{took:?}");
        assert_ne!(members[0].identity(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn fleet_recovers_from_every_kind_of_failure() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(16));
    let members = join_members(&server, 4, &shards);
    wait_for(60 * SECOND, || all_owned(&members, 16)).await;
    for code in [500, 409, 429, 403] {
        server.fail_with(code);
        server.set_behaviour(FAIL);
        server.clear_calls();
        sleep(60 * SECOND).await;
        let calls = server.call_times(CallKind::Write).len() + server.calls(CallKind::Get);
        assert!(
            calls < 4 * 60 * 2,
            "{code}: {calls} calls in a minute by 4 members"
        );
        server.set_behaviour(CallBehaviour::default());
        let took = wait_for(60 * SECOND, || all_owned(&members, 16)).await;
        assert!(took < 30 * SECOND, "{code}: {took:?}");
    }
    server.set_behaviour(DROP_REQUEST);
    sleep(60 * SECOND).await;
    server.set_behaviour(CallBehaviour::default());
    wait_for(60 * SECOND, || all_owned(&members, 16)).await;
}

#[tokio::test(start_paused = true)]
async fn silently_dead_watch_is_detected() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(4));
    let mut members = join_members(&server, 2, &shards);
    wait_for(60 * SECOND, || all_owned(&members, 4)).await;
    server.stall_watches(true);
    server.stall_watches(false);
    members.pop().unwrap().stop().await;
    let took = wait_for(60 * SECOND, || all_owned(&members, 4)).await;
    assert!(took < 18 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn member_polls_and_reports_when_watch_is_forbidden() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(4));
    server.forbid_watching();
    let members = join_members(&server, 2, &shards);
    wait_for(60 * SECOND, || all_owned(&members, 4)).await;
    let outage = members[0].status.borrow().outage.clone().unwrap();
    assert!(outage.contains("grant get, list, watch"), "{outage}");
    server.clear_calls();
    sleep(60 * SECOND).await;
    let lists = server.calls(CallKind::List);
    assert!(
        (30..=60).contains(&lists),
        "{lists} lists in a minute by 2 members"
    );
    assert!(all_owned(&members, 4));
}

mod large_fleet;
mod rollout;
mod shard_lease_lifetime;
