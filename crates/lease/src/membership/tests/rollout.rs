//! Pods are replaced one by one.

use super::*;

fn transitions(server: &FakeApiServer) -> i32 {
    let spec = |lease: k8s_openapi::api::coordination::v1::Lease| lease.spec.unwrap();
    let leases = server.leases().into_iter();
    let shards = leases.filter(|(name, _)| name.contains("-shard-"));
    shards
        .map(|(_, lease)| spec(lease).lease_transitions.unwrap())
        .sum()
}

#[tokio::test(start_paused = true)]
async fn rollout_moves_each_shard_about_once() {
    let (server, shards) = (FakeApiServer::new(), watch::Sender::new(16));
    let mut members = join_members(&server, 4, &shards);
    wait_for(60 * SECOND, || all_owned(&members, 16)).await;
    let before = transitions(&server);
    for n in 4..8 {
        let new = TestMember::join(&server, &format!("shop-{n}"), &shards);
        wait_for(5 * SECOND, || new.identity().is_some()).await;
        members.push(new);
        // A new pod is ready before an old one is stopped.
        sleep(2 * SECOND).await;
        members.remove(0).stop().await;
        wait_for(5 * SECOND, || all_owned(&members, 16)).await;
    }
    let moves = transitions(&server) - before;
    assert!((16..=18).contains(&moves), "{moves} moves");
}
