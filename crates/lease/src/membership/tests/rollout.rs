//! Pods are replaced one after the other.

use super::*;

fn transitions(fake: &Fake) -> i32 {
    let spec = |lease: k8s_openapi::api::coordination::v1::Lease| lease.spec.unwrap();
    let leases = fake.leases().into_iter();
    let shards = leases.filter(|(name, _)| name.contains("-shard-"));
    shards
        .map(|(_, lease)| spec(lease).lease_transitions.unwrap())
        .sum()
}

#[tokio::test(start_paused = true)]
async fn a_rollout_moves_each_shard_about_once() {
    let (fake, shards) = (Fake::new(), watch::Sender::new(16));
    let mut members = fleet(&fake, 4, &shards);
    until(60 * SECOND, || all_owned(&members, 16)).await;
    let before = transitions(&fake);
    for n in 4..8 {
        let new = Member::join(&fake, &format!("shop-{n}"), &shards);
        until(5 * SECOND, || new.identity().is_some()).await;
        members.push(new);
        // A new one is ready before an old one is told to end.
        sleep(2 * SECOND).await;
        members.remove(0).stop().await;
        until(5 * SECOND, || all_owned(&members, 16)).await;
    }
    let moves = transitions(&fake) - before;
    assert!((16..=18).contains(&moves), "{moves} moves");
}
