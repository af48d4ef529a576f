//! Who should own what. Every process computes the same from the same members and owners, so
//! nobody has to be told.
//!
//! Loads differ by one at most. An owner keeps what it has as far as that allows, so a member
//! that joins is given no more than its share, and one that leaves leaves only its own. What is
//! to be given away goes where the weight of a member for a shard is greatest among those with
//! room; that part is unchanged when one of its moves has come about, so that processes which
//! see the moves at different times agree all the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// The owner that each of `shards` shards should have, given its present `owners`. Owners that
/// are no members, and shards out of range, count for nothing; without members there is no plan.
#[must_use]
pub fn assign_shards<M>(
    members: &BTreeSet<M>,
    shards: u16,
    owners: &BTreeMap<u16, M>,
) -> BTreeMap<u16, M>
where
    M: Ord + Clone + AsRef<str>,
{
    if members.is_empty() {
        return BTreeMap::new();
    }
    let mut capacities = capacities(members, shards, owners);
    let mut assigned = BTreeMap::new();
    let mut free = Vec::new();
    for shard in 0..shards {
        let keeper = owners
            .get(&shard)
            .and_then(|owner| capacities.get_mut(owner));
        match keeper.filter(|capacity| capacity.kept.contains(&shard)) {
            Some(capacity) => {
                assigned.insert(shard, capacity.member.clone());
            }
            None => free.push(shard),
        }
    }
    let mut pairs: Vec<(u64, u16, &M)> = Vec::new();
    for capacity in capacities
        .values()
        .filter(|capacity| capacity.available > 0)
    {
        pairs.extend(
            free.iter()
                .map(|s| (weight(capacity.hash, *s), *s, capacity.member)),
        );
    }
    pairs.sort_unstable_by_key(|pair| Reverse(*pair));
    for (_, shard, member) in pairs {
        let Some(capacity) = capacities
            .get_mut(member)
            .filter(|capacity| capacity.available > 0)
        else {
            continue;
        };
        assigned.entry(shard).or_insert_with(|| {
            capacity.available -= 1;
            member.clone()
        });
    }
    assigned
}

/// What a member keeps, and how much more it is to have.
struct Capacity<'a, M> {
    member: &'a M,
    hash: u64,
    kept: BTreeSet<u16>,
    available: usize,
}

fn capacities<'a, M>(
    members: &'a BTreeSet<M>,
    shards: u16,
    owners: &BTreeMap<u16, M>,
) -> BTreeMap<&'a M, Capacity<'a, M>>
where
    M: Ord + Clone + AsRef<str>,
{
    let mut owned: BTreeMap<&M, Vec<u16>> = members.iter().map(|m| (m, Vec::new())).collect();
    for (shard, owner) in owners.range(..shards) {
        if let Some(shards) = owned.get_mut(owner) {
            shards.push(*shard);
        }
    }
    let (least, more) = (
        usize::from(shards) / members.len(),
        usize::from(shards) % members.len(),
    );
    // Those who have one more than the least go on having it, before others come to it. How
    // much more they have does not matter: it changes while they give away.
    let mut ranked: Vec<(&M, Vec<u16>)> = owned.into_iter().collect();
    ranked.sort_by_cached_key(|(member, owned)| {
        (Reverse(owned.len() > least), Reverse(hash(member.as_ref())))
    });
    let capacity = |(rank, (member, mut owned)): (usize, (&'a M, Vec<u16>))| {
        let share = least + usize::from(rank < more);
        let hash = hash(member.as_ref());
        if owned.len() > share {
            owned.sort_by_cached_key(|shard| Reverse(weight(hash, *shard)));
            owned.truncate(share);
        }
        let available = share - owned.len();
        let kept = owned.into_iter().collect();
        let capacity = Capacity {
            member,
            hash,
            kept,
            available,
        };
        (member, capacity)
    };
    ranked.into_iter().enumerate().map(capacity).collect()
}

/// How much a member, by its hash, is drawn to a shard. The same in all versions of the program.
fn weight(member: u64, shard: u16) -> u64 {
    mix(member ^ mix(u64::from(shard).wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// FNV-1a, and then mixed well.
fn hash(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// The last step of `SplitMix64`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
