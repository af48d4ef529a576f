#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use testkit::soak::rounds;

use super::*;

fn name(n: usize) -> String {
    format!("shop-{n}_uid_{n:016x}")
}

fn names(range: std::ops::Range<usize>) -> BTreeSet<String> {
    range.map(name).collect()
}

fn moves_between(before: &BTreeMap<u16, String>, after: &BTreeMap<u16, String>) -> usize {
    after
        .iter()
        .filter(|(shard, owner)| before.get(shard) != Some(*owner))
        .count()
}

fn loads(members: &BTreeSet<String>, assigned: &BTreeMap<u16, String>) -> Vec<usize> {
    let load = |member| assigned.values().filter(|owner| *owner == member).count();
    members.iter().map(load).collect()
}

fn is_balanced(members: &BTreeSet<String>, assigned: &BTreeMap<u16, String>) -> bool {
    let loads = loads(members, assigned);
    loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(64, 2048)))]

    #[test]
    fn all_shards_are_assigned_and_balanced(
        members in 1_usize..40,
        shards in 0_u16..300,
        owners in prop::collection::btree_map(0_u16..400, (0_usize..50).prop_map(name), 0..300),
    ) {
        let members = names(0..members);
        let assigned = assign_shards(&members, shards, &owners);
        prop_assert_eq!(assigned.len(), usize::from(shards));
        prop_assert!(assigned.keys().all(|shard| *shard < shards));
        prop_assert!(assigned.values().all(|owner| members.contains(owner)));
        prop_assert!(is_balanced(&members, &assigned));
        prop_assert_eq!(assign_shards(&members, shards, &assigned), assigned);
    }

    #[test]
    fn join_moves_only_the_new_members_share(members in 1_usize..40, shards in 1_u16..300) {
        let before = assign_shards(&names(0..members), shards, &BTreeMap::new());
        let after = assign_shards(&names(0..members + 1), shards, &before);
        let most = usize::from(shards).div_ceil(members + 1);
        prop_assert!(moves_between(&before, &after) <= most);
        for (shard, owner) in &after {
            prop_assert!(before[shard] == *owner || *owner == name(members));
        }
    }

    #[test]
    fn leave_moves_only_the_leavers_shards(
        members in 2_usize..40,
        shards in 1_u16..300,
        gone in any::<prop::sample::Index>(),
    ) {
        let mut members = names(0..members);
        let before = assign_shards(&members, shards, &BTreeMap::new());
        let gone = gone.get(&members.iter().cloned().collect::<Vec<_>>()).clone();
        members.remove(&gone);
        let after = assign_shards(&members, shards, &before);
        for (shard, owner) in &after {
            prop_assert!(before[shard] == *owner || before[shard] == gone);
        }
    }

    /// Moves that complete one by one, in any order, lead to the same assignment.
    #[test]
    fn completed_move_does_not_change_other_assignments(
        members in 1_usize..12,
        shards in 1_u16..64,
        owners in prop::collection::btree_map(0_u16..64, (0_usize..14).prop_map(name), 0..64),
        order in any::<u64>(),
    ) {
        let members = names(0..members);
        let assigned = assign_shards(&members, shards, &owners);
        let mut now = owners;
        // All moving shards are released first, then claimed.
        let mut steps: Vec<u16> = (0..shards).filter(|s| now.get(s) != assigned.get(s)).collect();
        steps.sort_by_key(|shard| mix(order ^ u64::from(*shard)));
        for shard in &steps {
            now.remove(shard);
            prop_assert_eq!(&assign_shards(&members, shards, &now), &assigned);
        }
        for shard in steps {
            now.insert(shard, assigned[&shard].clone());
            prop_assert_eq!(&assign_shards(&members, shards, &now), &assigned);
        }
    }

    /// One new member joins at a time, and an old one leaves before the fleet has been stable for
    /// long enough to rebalance.
    #[test]
    fn rollout_moves_each_shard_about_once(members in 1_usize..20, shards in 1_u16..130) {
        let mut fleet = names(0..members);
        let mut owners = assign_shards(&fleet, shards, &BTreeMap::new());
        let mut moves = 0;
        for old in 0..members {
            fleet.insert(name(members + old));
            fleet.remove(&name(old));
            let assigned = assign_shards(&fleet, shards, &owners);
            let before = owners.clone();
            for (shard, owner) in &mut owners {
                if !fleet.contains(owner) {
                    owner.clone_from(&assigned[shard]);
                }
            }
            moves += moves_between(&before, &owners);
        }
        prop_assert!(moves <= usize::from(shards) + members, "{moves} moves");
        prop_assert!(is_balanced(&fleet, &owners));
    }
}

#[test]
fn no_members_means_no_assignments() {
    assert!(assign_shards(&BTreeSet::<String>::new(), 8, &BTreeMap::new()).is_empty());
}

/// Versions of the program that disagree here would move shards to and fro during a rollout.
#[test]
fn assignment_is_stable_across_versions() {
    let assigned = assign_shards(&names(0..3), 6, &BTreeMap::new());
    let pods: Vec<&str> = assigned.values().map(|name| &name[..6]).collect();
    let expected = ["shop-2", "shop-1", "shop-1", "shop-0", "shop-2", "shop-0"];
    assert_eq!(pods, expected);
}
