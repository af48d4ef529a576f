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

fn moved(before: &BTreeMap<u16, String>, after: &BTreeMap<u16, String>) -> usize {
    after
        .iter()
        .filter(|(shard, owner)| before.get(shard) != Some(*owner))
        .count()
}

fn loads(members: &BTreeSet<String>, planned: &BTreeMap<u16, String>) -> Vec<usize> {
    let load = |member| planned.values().filter(|owner| *owner == member).count();
    members.iter().map(load).collect()
}

fn is_balanced(members: &BTreeSet<String>, planned: &BTreeMap<u16, String>) -> bool {
    let loads = loads(members, planned);
    loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(64, 2048)))]

    #[test]
    fn all_shards_are_planned_and_balanced(
        members in 1_usize..40,
        shards in 0_u16..300,
        owners in prop::collection::btree_map(0_u16..400, (0_usize..50).prop_map(name), 0..300),
    ) {
        let members = names(0..members);
        let planned = plan(&members, shards, &owners);
        prop_assert_eq!(planned.len(), usize::from(shards));
        prop_assert!(planned.keys().all(|shard| *shard < shards));
        prop_assert!(planned.values().all(|owner| members.contains(owner)));
        prop_assert!(is_balanced(&members, &planned));
        prop_assert_eq!(plan(&members, shards, &planned), planned);
    }

    #[test]
    fn a_join_moves_its_share_to_the_new_one_only(members in 1_usize..40, shards in 1_u16..300) {
        let before = plan(&names(0..members), shards, &BTreeMap::new());
        let after = plan(&names(0..members + 1), shards, &before);
        let most = usize::from(shards).div_ceil(members + 1);
        prop_assert!(moved(&before, &after) <= most);
        for (shard, owner) in &after {
            prop_assert!(before[shard] == *owner || *owner == name(members));
        }
    }

    #[test]
    fn a_leave_moves_only_its_own(
        members in 2_usize..40,
        shards in 1_u16..300,
        gone in any::<prop::sample::Index>(),
    ) {
        let mut members = names(0..members);
        let before = plan(&members, shards, &BTreeMap::new());
        let gone = gone.get(&members.iter().cloned().collect::<Vec<_>>()).clone();
        members.remove(&gone);
        let after = plan(&members, shards, &before);
        for (shard, owner) in &after {
            prop_assert!(before[shard] == *owner || before[shard] == gone);
        }
    }

    /// Moves that come about one by one, in any order, lead to the very plan.
    #[test]
    fn a_move_that_has_come_about_changes_no_other(
        members in 1_usize..12,
        shards in 1_u16..64,
        owners in prop::collection::btree_map(0_u16..64, (0_usize..14).prop_map(name), 0..64),
        order in any::<u64>(),
    ) {
        let members = names(0..members);
        let planned = plan(&members, shards, &owners);
        let mut now = owners;
        // All that are to be given away are given up first, then claimed.
        let mut steps: Vec<u16> = (0..shards).filter(|s| now.get(s) != planned.get(s)).collect();
        steps.sort_by_key(|shard| mix(order ^ u64::from(*shard)));
        for shard in &steps {
            now.remove(shard);
            prop_assert_eq!(&plan(&members, shards, &now), &planned);
        }
        for shard in steps {
            now.insert(shard, planned[&shard].clone());
            prop_assert_eq!(&plan(&members, shards, &now), &planned);
        }
    }

    /// One new member joins at a time, and an old one leaves before the fleet has been calm
    /// for long enough that anything moves for balance.
    #[test]
    fn a_rollout_moves_each_shard_about_once(members in 1_usize..20, shards in 1_u16..130) {
        let mut fleet = names(0..members);
        let mut owners = plan(&fleet, shards, &BTreeMap::new());
        let mut moves = 0;
        for old in 0..members {
            fleet.insert(name(members + old));
            fleet.remove(&name(old));
            let planned = plan(&fleet, shards, &owners);
            let before = owners.clone();
            for (shard, owner) in &mut owners {
                if !fleet.contains(owner) {
                    owner.clone_from(&planned[shard]);
                }
            }
            moves += moved(&before, &owners);
        }
        prop_assert!(moves <= usize::from(shards) + members, "{moves} moves");
        prop_assert!(is_balanced(&fleet, &owners));
    }
}

#[test]
fn nobody_is_planned_without_members() {
    assert!(plan(&BTreeSet::<String>::new(), 8, &BTreeMap::new()).is_empty());
}

/// Versions of the program that differ here would move shards to and fro during a rollout.
#[test]
fn the_plan_is_the_same_in_all_versions() {
    let planned = plan(&names(0..3), 6, &BTreeMap::new());
    let of: Vec<&str> = planned.values().map(|name| &name[..6]).collect();
    let expected = ["shop-2", "shop-1", "shop-1", "shop-0", "shop-2", "shop-0"];
    assert_eq!(of, expected);
}
