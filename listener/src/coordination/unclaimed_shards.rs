//! Shards that should be this process's and cannot be had, and those that are its own and cannot
//! be claimed in the database.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::pod_status::{BLOCKED_BY_TRANSACTION, DATABASE_UNREACHABLE, SHARD_UNOWNED, StalledShard};
use lease::membership::{MembershipStatus, ShardAssignment};
use tokio::time::Instant;

/// Since when each of some shards has been waiting.
#[derive(Debug, Default)]
struct Since(BTreeMap<u16, Instant>);

impl Since {
    /// These wait now, and no others.
    fn note(&mut self, shards: impl Iterator<Item = u16>, now: Instant) {
        let since = |shard: u16| (shard, self.0.get(&shard).copied().unwrap_or(now));
        let waiting: BTreeMap<u16, Instant> = shards.map(since).collect();
        self.0 = waiting;
    }

    /// For how long the one has been that waits longest.
    fn longest(&self, now: Instant) -> Duration {
        let first = self.0.values().min();
        first.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(*since)
        })
    }

    /// Those that have waited for as long as `bound`, with what is said of each.
    fn stalled(
        &self,
        now: Instant,
        bound: Duration,
        at: DateTime<Utc>,
        say: impl Fn(u16) -> (&'static str, String),
    ) -> Vec<StalledShard> {
        let stalled = self.0.iter().filter_map(|(shard, since)| {
            let lasts = now.saturating_duration_since(*since);
            (lasts >= bound).then(|| {
                let (reason, message) = say(*shard);
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

/// Since when what should be has not been.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Shards that are wanted.
    wanted: Since,
    /// Shards that are held, and wait for their claims in the database.
    unclaimed: Since,
    /// This process as a member.
    outside: Option<Instant>,
}

impl Waiting {
    /// Takes note of how things stand, and of the shards that are held and not claimed.
    pub(crate) fn note(
        &mut self,
        standing: &MembershipStatus,
        unclaimed: impl Iterator<Item = u16>,
        now: Instant,
    ) {
        let seats = standing.shards.iter();
        let wanted = seats.filter(|seat| seat.pending && !seat.held);
        self.wanted.note(wanted.map(|seat| seat.shard), now);
        self.unclaimed.note(unclaimed, now);
        self.outside = match standing.identity {
            Some(_) => None,
            None => self.outside.or(Some(now)),
        };
    }

    /// For how long the shard has waited for its claim that waits longest.
    pub(crate) fn longest_unclaimed(&self, now: Instant) -> Duration {
        self.unclaimed.longest(now)
    }

    /// Shards that have been wanted, or have waited for their claims, for as long as `bound`.
    /// `blocked` is what keeps the database from answering although it is there, if anything does.
    pub(crate) fn stalled(
        &self,
        standing: &MembershipStatus,
        blocked: Option<&str>,
        now: Instant,
        bound: Duration,
        at: DateTime<Utc>,
    ) -> Vec<StalledShard> {
        let seat = |shard: u16| standing.shards.iter().find(|seat| seat.shard == shard);
        let wanted = |shard: u16| (SHARD_UNOWNED, message(seat(shard), standing));
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

    /// Why this process takes no part, if it has not for as long as `bound`.
    pub(crate) fn outside(
        &self,
        standing: &MembershipStatus,
        now: Instant,
        bound: Duration,
    ) -> Option<String> {
        let lasts = now.saturating_duration_since(self.outside?);
        let why = standing.outage.as_deref().unwrap_or("its Lease is held");
        (lasts >= bound).then(|| format!("this process cannot take part: {why}"))
    }
}

/// While the cause is the same, so are the words.
fn message(seat: Option<&ShardAssignment>, standing: &MembershipStatus) -> String {
    let holder = seat.and_then(|seat| seat.holder.as_ref());
    match (&standing.outage, holder) {
        (Some(trouble), _) => format!("its Lease cannot be had: {trouble}"),
        (None, Some(holder)) => format!("its Lease cannot be had, as {holder} still holds it"),
        (None, None) => "its Lease cannot be had".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_cannot_take_part_says_why() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        let mut outside = |second: u64, identity: Option<&str>| {
            let standing = MembershipStatus {
                identity: identity.map(ToOwned::to_owned),
                outage: Some("no answer".to_owned()),
                ..MembershipStatus::default()
            };
            let now = start + Duration::from_secs(second);
            waiting.note(&standing, std::iter::empty(), now);
            waiting.outside(&standing, now, Duration::from_secs(5))
        };
        assert_eq!(outside(0, None), None);
        let why = Some("this process cannot take part: no answer".to_owned());
        assert_eq!(outside(5, None), why);
        assert_eq!(outside(6, Some("me")), None);
        assert_eq!(outside(7, None), None);
    }

    #[test]
    fn a_shard_that_is_wanted_in_vain_is_told_after_a_while() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        let mut note = |second: u64, mine: bool| {
            let standing = MembershipStatus {
                shards: vec![ShardAssignment {
                    shard: 4,
                    holder: Some("other".to_owned()),
                    held: mine,
                    pending: true,
                }],
                ..MembershipStatus::default()
            };
            let (now, bound) = (start + Duration::from_secs(second), Duration::from_secs(5));
            waiting.note(&standing, std::iter::empty(), now);
            waiting.stalled(&standing, None, now, bound, DateTime::UNIX_EPOCH)
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
        assert!(note(8, false).is_empty(), "it was had meanwhile");
    }

    #[test]
    fn a_shard_that_cannot_be_claimed_is_told_after_a_while() {
        let start = Instant::now();
        let (mut waiting, bound) = (Waiting::default(), Duration::from_secs(5));
        let mut note = |second: u64, shards: &[u16]| {
            let now = start + Duration::from_secs(second);
            let standing = MembershipStatus::default();
            waiting.note(&standing, shards.iter().copied(), now);
            let longest = waiting.longest_unclaimed(now);
            let blocked = (second % 2 == 1).then_some("process 7 holds a lock");
            let stalled = waiting.stalled(&standing, blocked, now, bound, DateTime::UNIX_EPOCH);
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
