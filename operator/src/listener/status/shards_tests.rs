//! What is said while several pods share the shards.

use proptest::prelude::*;

use super::*;
use crate::listener::status::shards::lag;

/// Pods `p1` to `pN`, each with the shards given.
fn sharing(shares: &[&[u16]]) -> Case {
    let mut case = Case::well();
    let count = shares.len();
    (case.wanted, case.deployment) = (
        i32::try_from(count).unwrap(),
        Some(rolled_out(i32::try_from(count).unwrap())),
    );
    case.shards = shares
        .iter()
        .map(|share| u16::try_from(share.len()).unwrap())
        .sum();
    case.pods.clear();
    for (index, share) in shares.iter().enumerate() {
        let role = if share.is_empty() {
            Role::Standby
        } else {
            Role::Active
        };
        let mut report = report(role, "new");
        report.shards = share.iter().map(|shard| owned(*shard, 1)).collect();
        case.pods
            .push(pod(&format!("p{}", index + 1), Some(report)));
    }
    case
}

fn told(case: &mut Case, pod: usize) -> &mut PodReport {
    case.pods[pod].report.as_mut().unwrap()
}

fn stalled(shard: u16, reason: &str, message: &str) -> StalledShard {
    StalledShard {
        shard,
        reason: reason.to_owned(),
        message: message.to_owned(),
        since: "2026-01-01T00:00:00Z".to_owned(),
    }
}

/// A pod lets go of all it has.
fn lets_go(case: &mut Case, pod: usize) {
    let report = told(case, pod);
    report.shards.clear();
    report.role = Role::Standby;
}

#[test]
fn several_pods_deliver_together() {
    let mut case = sharing(&[&[0, 3], &[1, 2], &[]]);
    assert_eq!(
        case.says(),
        "True:Delivering False:UpToDate False:AsExpected False:MakingProgress"
    );
    assert_eq!(case.message("Ready"), "2 pods deliver 4 shards");
    told(&mut case, 0).lag_seconds = 7;
    told(&mut case, 0).backlog = 3;
    told(&mut case, 1).backlog = 50;
    told(&mut case, 1).shards[0].lag_seconds = 6;
    let status = case.status();
    let owners: Vec<_> = status
        .shards
        .iter()
        .map(|shard| (shard.shard, &*shard.owner, shard.lag.as_deref().unwrap()))
        .collect();
    assert_eq!(
        owners,
        [
            (0, "p1", "0s"),
            (1, "p2", "6s"),
            (2, "p2", "0s"),
            (3, "p1", "0s")
        ]
    );
    assert_eq!((status.lag.as_deref(), status.backlog), (Some("7s"), 50));
    assert_eq!(sharing(&[&[0]]).message("Ready"), "pod p1 delivers 1 shard");
}

#[test]
fn later_owner_of_a_shard_is_shown() {
    let mut case = sharing(&[&[0], &[]]);
    told(&mut case, 0).lag_seconds = 99;
    told(&mut case, 1).role = Role::Active;
    told(&mut case, 1).shards = vec![owned(0, 2)];
    let status = case.status();
    assert_eq!(status.shards.len(), 1);
    assert_eq!(
        (&*status.shards[0].owner, status.shards[0].epoch),
        ("p2", 2)
    );
    // What the earlier one says of it counts no more.
    assert_eq!(status.lag.as_deref(), Some("0s"));
    told(&mut case, 0).stalled = vec![stalled(0, "ConcurrencyLimitReached", "x")];
    assert!(case.says().ends_with("False:MakingProgress"));
}

#[test]
fn listener_is_not_ready_with_unowned_shards() {
    let mut case = sharing(&[&[0, 1], &[2]]);
    case.shards = 4;
    assert!(case.says().starts_with("False:Starting "));
    assert_eq!(case.message("Ready"), "1 of 4 shards have no owner yet");
    case.pods.push(pod("p3", None));
    assert!(case.says().starts_with("False:PodsNotReporting "));
}

#[test]
fn handover_may_take_a_while() {
    let mut case = sharing(&[&[0, 1], &[2, 3]]);
    case.look();
    lets_go(&mut case, 1);
    case.now += 10;
    case.look();
    assert!(case.says().starts_with("True:Delivering "));
    assert_eq!(
        case.message("Ready"),
        "pod p1 delivers 2 shards, and 2 change owners"
    );
    case.now += 60;
    case.look();
    assert!(case.says().ends_with(" False:MakingProgress"));
    // From here on they have been without a pod for too long.
    case.now += 1;
    case.look();
    assert_eq!(
        case.says(),
        "False:ShardUnowned False:UpToDate False:AsExpected True:ShardUnowned"
    );
    let said = case.message("DeliveryStalled");
    assert!(
        said.starts_with("shards 2, 3: without a pod for more than 1m;"),
        "{said}"
    );
    assert_eq!(case.message("Ready"), said);
    told(&mut case, 0).shards.extend([owned(2, 2), owned(3, 2)]);
    case.look();
    assert!(case.says().starts_with("True:Delivering "));
    assert!(case.unowned_since.is_empty());
}

#[test]
fn single_pod_may_hand_over() {
    let mut case = sharing(&[&[0, 1], &[]]);
    case.look();
    lets_go(&mut case, 0);
    case.look();
    assert!(case.says().starts_with("True:Delivering "));
    // Nobody is there to take over.
    case.pods.clear();
    assert!(case.says().starts_with("False:Starting "));
}

#[test]
fn non_reporting_pod_may_own_shards() {
    let mut case = sharing(&[&[0, 1], &[2, 3]]);
    case.look();
    let report = case.pods[1].report.take();
    for _ in 0..10 {
        case.now += 30;
        case.look();
        assert!(case.says().starts_with("True:Delivering "));
        assert!(!case.says().contains("ShardUnowned"));
    }
    // It comes to be known as gone, and only from then on the shards count as free.
    case.pods[1].seen.ready = false;
    case.look();
    case.now += 61;
    assert!(case.says().ends_with(" True:ShardUnowned"));
    case.pods[1].report = report;
    case.look();
    assert!(case.says().ends_with(" False:MakingProgress"));
}

#[test]
fn stalled_shards_list_the_worst_cause_first() {
    let mut case = sharing(&[&[0, 1, 4], &[2, 3]]);
    told(&mut case, 0).stalled = vec![
        stalled(4, "EndpointFailing", "hooks.example.com answers 500"),
        stalled(0, "EndpointFailing", "hooks.example.com answers 500"),
    ];
    told(&mut case, 1).stalled = vec![stalled(3, "BlockedByTransaction", "pid 7 holds it")];
    assert_eq!(
        case.says(),
        "True:Delivering False:UpToDate False:AsExpected True:BlockedByTransaction"
    );
    assert_eq!(
        case.message("DeliveryStalled"),
        "shard 3 (pod p2): pid 7 holds it; shards 0, 4 (pod p1): hooks.example.com answers 500"
    );
}

#[test]
fn pod_may_report_an_unowned_shard() {
    let mut case = sharing(&[&[0], &[1]]);
    case.look();
    lets_go(&mut case, 1);
    told(&mut case, 0).stalled = vec![stalled(1, SHARD_UNOWNED, "the API server refuses it")];
    assert_eq!(
        case.says(),
        "False:ShardUnowned False:UpToDate False:AsExpected True:ShardUnowned"
    );
    assert_eq!(
        case.message("Ready"),
        "shard 1 (pod p1): the API server refuses it"
    );
    // Who owns it knows better.
    told(&mut case, 1).shards = vec![owned(1, 2)];
    assert!(case.says().ends_with(" False:MakingProgress"));
}

#[test]
fn message_about_stalled_shards_is_bounded() {
    let shares: Vec<Vec<u16>> = (0..16)
        .map(|pod| (pod * 16..pod * 16 + 16).collect())
        .collect();
    let shares: Vec<&[u16]> = shares.iter().map(Vec::as_slice).collect();
    let mut case = sharing(&shares);
    for pod in 0..16 {
        let report = told(&mut case, pod);
        let all = report.shards.iter().map(|owned| owned.shard);
        report.stalled = all
            .map(|shard| stalled(shard, "ConcurrencyLimitReached", "full"))
            .collect();
    }
    let said = case.message("DeliveryStalled");
    assert!(
        said.starts_with("shards 0, 1, 2, 3, 4, 5, 6, 7 and 8 more (pod p1): full; "),
        "{said}"
    );
    assert!(said.ends_with("; 176 more"), "{said}");
}

#[test]
fn shard_numbers_and_pod_messages_carry_over() {
    let mut case = sharing(&[&[0], &[1]]);
    told(&mut case, 0).stalled = vec![stalled(0, "ConcurrencyLimitReached", "for 70 s")];
    let before = case.status();
    told(&mut case, 0).stalled[0].message = "for 80 s".to_owned();
    told(&mut case, 0).shards[0].lag_seconds = 80;
    let mut after = case.status();
    assert_ne!(after, before);
    carry_over_numbers(&mut after, &before);
    assert_eq!(after, before);
    // Who owns a shard is no figure.
    told(&mut case, 0).shards[0].epoch = 2;
    let mut after = case.status();
    carry_over_numbers(&mut after, &before);
    assert_eq!(after.shards[0].lag.as_deref(), Some("1m20s"));
}

proptest! {
    #[test]
    fn small_changes_of_lag_are_not_written(shown in 0..100_000_u64, now in 0..100_000_u64) {
        let before = HumanDuration::from_secs(shown).to_string();
        let after = lag(now, Some(&before));
        let told = after.parse::<HumanDuration>().unwrap().duration().as_secs();
        prop_assert!(told.abs_diff(now) <= 4.max(told / 4));
        prop_assert!(now > 0 || told == 0, "that nothing waits is always told");
        prop_assert_eq!(lag(now, Some(&after)), after);
    }

    /// With any reports in any order, each shard has one owner, and no claim of a free shard is
    /// made for one that has an owner.
    #[test]
    fn shard_owner_is_independent_of_pod_order(
        claims in prop::collection::vec((0..4_usize, 0..6_u16, 1..1000_i64), 0..24),
        at in 0..4_usize,
    ) {
        let mut case = sharing(&[&[], &[], &[], &[]]);
        case.shards = 6;
        for (index, (pod, shard, epoch)) in claims.iter().enumerate() {
            // Epochs are minted once.
            let epoch = epoch * 100 + i64::try_from(index).unwrap();
            told(&mut case, *pod).role = Role::Active;
            told(&mut case, *pod).shards.push(owned(*shard, epoch));
        }
        let status = case.look();
        case.pods.rotate_left(at);
        prop_assert_eq!(&case.look(), &status);
        for owner in &status.shards {
            let highest = claims.iter().enumerate()
                .filter(|(_, (_, shard, _))| i32::from(*shard) == owner.shard)
                .map(|(index, (_, _, epoch))| epoch * 100 + i64::try_from(index).unwrap())
                .max();
            prop_assert_eq!(Some(owner.epoch), highest);
        }
        case.now += 100;
        let owned = status.shards.len();
        prop_assert_eq!(case.says().ends_with("True:ShardUnowned"), owned < 6);
    }
}
