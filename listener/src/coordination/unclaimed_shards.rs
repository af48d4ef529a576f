//! Shards that this process should own: those whose leases it cannot acquire, and those whose leases it
//! holds and which it cannot claim in the database.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::pod_status::{BLOCKED_BY_TRANSACTION, DATABASE_UNREACHABLE, SHARD_UNOWNED, StalledShard};
use lease::membership::{MembershipStatus, ShardAssignment};
use tokio::time::Instant;

/// Times since when shards have been waiting.
#[derive(Debug, Default)]
struct WaitingSince(BTreeMap<u16, Instant>);

impl WaitingSince {
    /// Sets the shards that wait now.
    fn update(&mut self, shards: impl Iterator<Item = u16>, now: Instant) {
        let since = |shard: u16| (shard, self.0.get(&shard).copied().unwrap_or(now));
        let waiting: BTreeMap<u16, Instant> = shards.map(since).collect();
        self.0 = waiting;
    }

    /// Returns the longest wait.
    fn longest(&self, now: Instant) -> Duration {
        let first = self.0.values().min();
        first.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(*since)
        })
    }

    /// Returns the shards that have waited for as long as `bound`, each with its reason and message.
    fn stalled(
        &self,
        now: Instant,
        bound: Duration,
        at: DateTime<Utc>,
        explain: impl Fn(u16) -> (&'static str, String),
    ) -> Vec<StalledShard> {
        let stalled = self.0.iter().filter_map(|(shard, since)| {
            let lasts = now.saturating_duration_since(*since);
            (lasts >= bound).then(|| {
                let (reason, message) = explain(*shard);
                StalledShard {
                    shard: *shard,
                    reason: reason.to_owned(),
                    message,
                    since: (at - lasts).to_rfc3339_opts(SecondsFormat::Secs, true),
                }
            })
        });
        stalled.collect()
    }
}

/// Shards and a membership that this process should have and waits for.
#[derive(Debug, Default)]
pub(crate) struct UnclaimedShards {
    /// Shards whose leases it cannot acquire.
    wanted: WaitingSince,
    /// Shards whose leases it holds, and which are not claimed in the database.
    unclaimed: WaitingSince,
    /// Since when it has not been a member.
    not_a_member: Option<Instant>,
}

impl UnclaimedShards {
    /// Takes in the state of the membership, and the shards whose leases are held and which are not claimed.
    pub(crate) fn update(
        &mut self,
        status: &MembershipStatus,
        unclaimed: impl Iterator<Item = u16>,
        now: Instant,
    ) {
        let assignments = status.shards.iter();
        let wanted = assignments.filter(|assignment| assignment.pending && !assignment.held);
        self.wanted
            .update(wanted.map(|assignment| assignment.shard), now);
        self.unclaimed.update(unclaimed, now);
        self.not_a_member = match status.identity {
            Some(_) => None,
            None => self.not_a_member.or(Some(now)),
        };
    }

    /// Returns how long the shard has waited that has waited longest for its claim.
    pub(crate) fn longest_unclaimed(&self, now: Instant) -> Duration {
        self.unclaimed.longest(now)
    }

    /// Returns the shards that have waited for their leases or claims for as long as `bound`. `blocked` is
    /// what keeps the database from answering although it is there, if anything does.
    pub(crate) fn stalled(
        &self,
        status: &MembershipStatus,
        blocked: Option<&str>,
        now: Instant,
        bound: Duration,
        at: DateTime<Utc>,
    ) -> Vec<StalledShard> {
        let assignment = |shard: u16| {
            status
                .shards
                .iter()
                .find(|assignment| assignment.shard == shard)
        };
        let wanted = |shard: u16| (SHARD_UNOWNED, message(assignment(shard), status));
        let unclaimed = |_| match blocked {
            Some(blocked) => (BLOCKED_BY_TRANSACTION, blocked.to_owned()),
            None => (
                DATABASE_UNREACHABLE,
                "its checkpoint cannot be claimed in the database".to_owned(),
            ),
        };
        let mut stalled = self.wanted.stalled(now, bound, at, wanted);
        stalled.extend(self.unclaimed.stalled(now, bound, at, unclaimed));
        stalled
    }

    /// Returns why this process is not a member, if it has not been for as long as `bound`.
    pub(crate) fn not_a_member(
        &self,
        status: &MembershipStatus,
        now: Instant,
        bound: Duration,
    ) -> Option<String> {
        let lasts = now.saturating_duration_since(self.not_a_member?);
        let why = status.outage.as_deref().unwrap_or("its Lease is held");
        (lasts >= bound).then(|| format!("this process cannot take part: {why}"))
    }
}

/// Returns a message that stays the same while its cause does.
fn message(assignment: Option<&ShardAssignment>, status: &MembershipStatus) -> String {
    let holder = assignment.and_then(|assignment| assignment.holder.as_ref());
    match (&status.outage, holder) {
        (Some(outage), _) => format!("its lease cannot be acquired: {outage}"),
        (None, Some(holder)) => format!("its lease cannot be acquired, as {holder} still holds it"),
        (None, None) => "its lease cannot be acquired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_is_no_member_says_why() {
        let start = Instant::now();
        let mut unclaimed = UnclaimedShards::default();
        let mut not_a_member = |second: u64, identity: Option<&str>| {
            let status = MembershipStatus {
                identity: identity.map(ToOwned::to_owned),
                outage: Some("no answer".to_owned()),
                ..MembershipStatus::default()
            };
            let now = start + Duration::from_secs(second);
            unclaimed.update(&status, std::iter::empty(), now);
            unclaimed.not_a_member(&status, now, Duration::from_secs(5))
        };
        assert_eq!(not_a_member(0, None), None);
        let why = Some("this process cannot take part: no answer".to_owned());
        assert_eq!(not_a_member(5, None), why);
        assert_eq!(not_a_member(6, Some("me")), None);
        assert_eq!(not_a_member(7, None), None);
    }

    #[test]
    fn shard_whose_lease_cannot_be_acquired_is_stalled() {
        let start = Instant::now();
        let mut unclaimed = UnclaimedShards::default();
        let mut note = |second: u64, mine: bool| {
            let status = MembershipStatus {
                shards: vec![ShardAssignment {
                    shard: 4,
                    holder: Some("other".to_owned()),
                    held: mine,
                    pending: true,
                }],
                ..MembershipStatus::default()
            };
            let (now, bound) = (start + Duration::from_secs(second), Duration::from_secs(5));
            unclaimed.update(&status, std::iter::empty(), now);
            unclaimed.stalled(&status, None, now, bound, DateTime::UNIX_EPOCH)
        };
        assert!(note(0, false).is_empty());
        assert!(note(4, false).is_empty());
        let stalled = note(6, false);
        assert_eq!(
            (stalled[0].shard, stalled[0].reason.as_str()),
            (4, SHARD_UNOWNED)
        );
        assert!(
            stalled[0].message.contains("other still holds it"),
            "{stalled:?}"
        );
        assert!(note(7, true).is_empty());
        assert!(note(8, false).is_empty(), "it was acquired meanwhile");
    }

    #[test]
    fn shard_that_cannot_be_claimed_is_stalled() {
        let start = Instant::now();
        let (mut unclaimed, bound) = (UnclaimedShards::default(), Duration::from_secs(5));
        let mut note = |second: u64, shards: &[u16]| {
            let now = start + Duration::from_secs(second);
            let status = MembershipStatus::default();
            unclaimed.update(&status, shards.iter().copied(), now);
            let longest = unclaimed.longest_unclaimed(now);
            let blocked = (second % 2 == 1).then_some("process 7 holds a lock");
            let stalled = unclaimed.stalled(&status, blocked, now, bound, DateTime::UNIX_EPOCH);
            let stalled = stalled.into_iter().map(|one| (one.shard, one.reason));
            (longest.as_secs(), stalled.collect::<Vec<_>>())
        };
        assert_eq!(note(0, &[1]), (0, vec![]));
        assert_eq!(note(4, &[1, 2]), (4, vec![]));
        let reason = BLOCKED_BY_TRANSACTION.to_owned();
        assert_eq!(note(5, &[1, 2]), (5, vec![(1, reason)]));
        let reason = DATABASE_UNREACHABLE.to_owned();
        assert_eq!(note(10, &[2]), (6, vec![(2, reason)]));
        assert_eq!(note(11, &[]), (0, vec![]));
        assert_eq!(note(30, &[2]), (0, vec![]), "it was claimed meanwhile");
    }
}
