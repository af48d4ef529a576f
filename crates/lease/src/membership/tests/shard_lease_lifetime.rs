//! When shard leases end and are granted again.

use super::*;

/// Member that receives shard leases and keeps them, even when they are lost.
struct StubbornMember {
    shard_leases: mpsc::Receiver<ShardLease>,
    driver: JoinHandle<()>,
    stop: CancellationToken,
}

fn stubborn(server: &FakeApiServer, shards: &watch::Sender<u16>) -> StubbornMember {
    let (sender, shard_leases) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let status = watch::Sender::new(MembershipStatus::default());
    let config = config(server, "shop-0");
    let driver = tokio::spawn(join(
        config,
        shards.subscribe(),
        sender,
        status,
        stop.clone(),
    ));
    StubbornMember {
        shard_leases,
        driver,
        stop,
    }
}

#[tokio::test(start_paused = true)]
async fn shard_is_granted_again_only_after_the_lost_one_is_dropped() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(1));
    let mut member = stubborn(&server, &shards);
    let shard_lease = member.shard_leases.recv().await.unwrap();
    assert_eq!((shard_lease.shard(), shard_lease.shard_count()), (0, 1));
    server.set_behaviour(DROP_REQUEST);
    let began = Instant::now();
    shard_lease.lost().cancelled().await;
    // Counted from before the last successful renewal, up to 4.8 s ago.
    let lasted = began.elapsed();
    assert!(lasted <= 10 * SECOND && lasted >= 5 * SECOND, "{lasted:?}");
    server.set_behaviour(CallBehaviour::default());
    assert!(
        timeout(60 * SECOND, member.shard_leases.recv())
            .await
            .is_err()
    );
    let before = shard_lease.holder().to_owned();
    drop(shard_lease);
    let again = timeout(SECOND, member.shard_leases.recv())
        .await
        .unwrap()
        .unwrap();
    assert_ne!(again.holder(), before);
    assert!(!again.lost().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn deleted_shard_lease_is_recreated_by_its_owner() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(1));
    let mut member = stubborn(&server, &shards);
    let shard_lease = member.shard_leases.recv().await.unwrap();
    let _others = join_members(&server, 3, &watch::Sender::new(1)).split_off(1);
    sleep(10 * SECOND).await;
    server.modify_lease_externally("shop-shard-0-of-1", |_| false);
    timeout(SECOND, shard_lease.lost().cancelled())
        .await
        .unwrap();
    let before = shard_lease.holder().to_owned();
    // Other members leave it alone until the owner must have noticed.
    sleep(25 * SECOND).await;
    assert!(server.lease_named("shop-shard-0-of-1").is_none());
    drop(shard_lease);
    let again = timeout(SECOND, member.shard_leases.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.holder(), before);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_shard_leases_and_releases_them() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(2));
    let mut member = stubborn(&server, &shards);
    let shard_leases = [
        member.shard_leases.recv().await.unwrap(),
        member.shard_leases.recv().await.unwrap(),
    ];
    member.stop.cancel();
    for shard_lease in &shard_leases {
        shard_lease.release_requested().cancelled().await;
        assert!(!shard_lease.lost().is_cancelled());
    }
    sleep(30 * SECOND).await;
    assert!(!member.driver.is_finished() && !shard_leases[0].lost().is_cancelled());
    // Other members know that it takes no shards.
    let annotations = server.lease_named("shop-0").unwrap().metadata.annotations;
    assert!(annotations.is_none_or(|a| !a.contains_key("observers.fraiseql.dev/shards")));
    drop(shard_leases);
    timeout(SECOND, member.driver).await.unwrap().unwrap();
    assert!(server.lease_named("shop-0").is_none());
    assert_eq!(server.leases().len(), 2);
    assert!(
        server.leases().values().all(|lease| lease
            .spec
            .as_ref()
            .unwrap()
            .holder_identity
            .is_none())
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_bounded_when_release_fails() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(2));
    let mut member = stubborn(&server, &shards);
    let shard_lease = member.shard_leases.recv().await.unwrap();
    server.set_behaviour(DROP_REQUEST);
    member.stop.cancel();
    drop((shard_lease, member.shard_leases));
    let began = Instant::now();
    timeout(60 * SECOND, member.driver).await.unwrap().unwrap();
    assert!(began.elapsed() < 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn repeatedly_dropped_shard_is_claimed_with_backoff() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(1));
    let mut member = stubborn(&server, &shards);
    server.clear_calls();
    let began = Instant::now();
    let mut shard_leases = 0;
    while began.elapsed() < 120 * SECOND {
        if let Ok(Some(shard_lease)) = timeout(SECOND, member.shard_leases.recv()).await {
            drop(shard_lease);
            shard_leases += 1;
        }
    }
    assert!((5..=15).contains(&shard_leases), "{shard_leases} holds");
}
