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
pub fn plan<M>(members: &BTreeSet<M>, shards: u16, owners: &BTreeMap<u16, M>) -> BTreeMap<u16, M>
where
    M: Ord + Clone + AsRef<str>,
{
    if members.is_empty() {
        return BTreeMap::new();
    }
    let mut rooms = rooms(members, shards, owners);
    let mut planned = BTreeMap::new();
    let mut free = Vec::new();
    for shard in 0..shards {
        let kept = owners.get(&shard).and_then(|owner| rooms.get_mut(owner));
        match kept.filter(|room| room.keeps.contains(&shard)) {
            Some(room) => {
                planned.insert(shard, room.member.clone());
            }
            None => free.push(shard),
        }
    }
    let mut pairs: Vec<(u64, u16, &M)> = Vec::new();
    for room in rooms.values().filter(|room| room.left > 0) {
        pairs.extend(
            free.iter()
                .map(|s| (weight(room.hash, *s), *s, room.member)),
        );
    }
    pairs.sort_unstable_by_key(|pair| Reverse(*pair));
    for (_, shard, member) in pairs {
        let Some(room) = rooms.get_mut(member).filter(|room| room.left > 0) else {
            continue;
        };
        planned.entry(shard).or_insert_with(|| {
            room.left -= 1;
            member.clone()
        });
    }
    planned
}

/// What a member keeps, and how much more it is to have.
struct Room<'a, M> {
    member: &'a M,
    hash: u64,
    keeps: BTreeSet<u16>,
    left: usize,
}

fn rooms<'a, M>(
    members: &'a BTreeSet<M>,
    shards: u16,
    owners: &BTreeMap<u16, M>,
) -> BTreeMap<&'a M, Room<'a, M>>
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
    let room = |(rank, (member, mut owned)): (usize, (&'a M, Vec<u16>))| {
        let share = least + usize::from(rank < more);
        let hash = hash(member.as_ref());
        if owned.len() > share {
            owned.sort_by_cached_key(|shard| Reverse(weight(hash, *shard)));
            owned.truncate(share);
        }
        let left = share - owned.len();
        let keeps = owned.into_iter().collect();
        let room = Room {
            member,
            hash,
            keeps,
            left,
        };
        (member, room)
    };
    ranked.into_iter().enumerate().map(room).collect()
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
