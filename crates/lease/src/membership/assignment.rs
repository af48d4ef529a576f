//! Assignment of shards to members. Every process computes the same assignment from the same
//! members and owners, so nobody has to announce it.
//!
//! Loads differ by one at most. An owner keeps what it has as far as balance allows: a member that
//! joins gets no more than its share, and one that leaves gives away only its own. Each shard that
//! must move goes to the member with the highest weight for it among those with capacity
//! (rendezvous hashing). That part does not change when one of its moves has completed, so
//! processes that see the moves at different times still agree.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Assigns each of `shards` shards to a member, given the present `owners`. Owners that are not
/// members, and shards out of range, are ignored; without members the result is empty.
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

/// What a member keeps, and how many more shards it has capacity for.
struct Capacity<'a, M> {
    member: &'a M,
    hash: u64,
    kept: BTreeSet<u16>,
    available: usize,
}

/// Computes each member's capacity from what it owns.
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
    // Members that own one more than the minimum keep it before others get one. How many more they
    // own does not matter: it changes while they give shards away.
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

/// Computes the weight of a member, by its hash, for a shard. The same in all versions of the
/// program.
fn weight(member: u64, shard: u16) -> u64 {
    mix(member ^ mix(u64::from(shard).wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// Hashes a name with FNV-1a and a final mix.
fn hash(name: &str) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// Applies the last step of `SplitMix64`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
