//! Shards that should be this process's and cannot be had, and those that are its own and cannot
//! be claimed in the database.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::report::{DATABASE_UNREACHABLE, HOLDING_TRANSACTION, NO_LEASE, StalledShard};
use lease::fleet::{Seat, Standing};
use tokio::time::Instant;

/// Since when what should be has not been.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Shards that are wanted.
    wanted: BTreeMap<u16, Instant>,
    /// This process as a member.
    outside: Option<Instant>,
}

impl Waiting {
    /// Takes note of how things stand; gives the shards that have been wanted in vain for as long
    /// as `bound`.
    pub(crate) fn note(
        &mut self,
        standing: &Standing,
        now: Instant,
        bound: Duration,
        at: DateTime<Utc>,
    ) -> Vec<StalledShard> {
        let wanted = standing
            .shards
            .iter()
            .filter(|seat| seat.wanted && !seat.mine);
        let since = |seat: &Seat| {
            let before = self.wanted.get(&seat.shard);
            (seat.shard, before.copied().unwrap_or(now))
        };
        let now_wanted: BTreeMap<u16, Instant> = wanted.clone().map(since).collect();
        self.wanted = now_wanted;
        let stalled = wanted.filter_map(|seat| {
            let since = self.wanted.get(&seat.shard)?;
            let lasts = now.saturating_duration_since(*since);
            (lasts >= bound).then(|| StalledShard {
                shard: seat.shard,
                reason: NO_LEASE.to_owned(),
                message: message(seat, standing),
                since: (at - lasts).to_rfc3339_opts(SecondsFormat::Secs, true),
            })
        });
        stalled.collect()
    }

    /// Why this process takes no part, if it has not for as long as `bound`.
    pub(crate) fn outside(
        &mut self,
        standing: &Standing,
        now: Instant,
        bound: Duration,
    ) -> Option<String> {
        if standing.identity.is_some() {
            self.outside = None;
            return None;
        }
        let since = *self.outside.get_or_insert(now);
        let lasts = now.saturating_duration_since(since);
        let why = standing.trouble.as_deref().unwrap_or("its Lease is held");
        (lasts >= bound).then(|| format!("this process cannot take part: {why}"))
    }
}

/// While the cause is the same, so are the words.
fn message(seat: &Seat, standing: &Standing) -> String {
    match (&standing.trouble, &seat.holder) {
        (Some(trouble), _) => format!("its Lease cannot be had: {trouble}"),
        (None, Some(holder)) => format!("its Lease cannot be had, as {holder} still holds it"),
        (None, None) => "its Lease cannot be had".to_owned(),
    }
}

/// Since when each of the shards that are held has been waiting for its claim in the database.
#[derive(Debug, Default)]
pub(crate) struct Unclaimed(BTreeMap<u16, Instant>);

impl Unclaimed {
    /// Takes note of the shards that are held and not claimed; gives for how long the one has been
    /// that waits longest.
    pub(crate) fn note(&mut self, shards: impl Iterator<Item = u16>, now: Instant) -> Duration {
        let since = |shard: u16| (shard, self.0.get(&shard).copied().unwrap_or(now));
        let waiting: BTreeMap<u16, Instant> = shards.map(since).collect();
        self.0 = waiting;
        let first = self.0.values().min();
        first.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(*since)
        })
    }

    /// Those that have waited for as long as `bound`. `blocked` is what keeps the database from
    /// answering although it is there, if anything does.
    pub(crate) fn stalled(
        &self,
        now: Instant,
        bound: Duration,
        at: DateTime<Utc>,
        blocked: Option<String>,
    ) -> Vec<StalledShard> {
        let (reason, message) = match blocked {
            Some(blocked) => (HOLDING_TRANSACTION, blocked),
            None => (
                DATABASE_UNREACHABLE,
                "its checkpoint cannot be claimed in the database".to_owned(),
            ),
        };
        let stalled = self.0.iter().filter_map(|(shard, since)| {
            let lasts = now.saturating_duration_since(*since);
            (lasts >= bound).then(|| StalledShard {
                shard: *shard,
                reason: reason.to_owned(),
                message: message.clone(),
                since: (at - lasts).to_rfc3339_opts(SecondsFormat::Secs, true),
            })
        });
        stalled.collect()
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
            let standing = Standing {
                identity: identity.map(ToOwned::to_owned),
                trouble: Some("no answer".to_owned()),
                ..Standing::default()
            };
            let now = start + Duration::from_secs(second);
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
            let standing = Standing {
                shards: vec![Seat {
                    shard: 4,
                    holder: Some("other".to_owned()),
                    mine,
                    wanted: true,
                }],
                ..Standing::default()
            };
            let now = start + Duration::from_secs(second);
            waiting.note(&standing, now, Duration::from_secs(5), DateTime::UNIX_EPOCH)
        };
        assert!(note(0, false).is_empty());
        assert!(note(4, false).is_empty());
        let stalled = note(6, false);
        assert_eq!(
            (stalled[0].shard, stalled[0].reason.as_str()),
            (4, NO_LEASE)
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
        let (mut unclaimed, bound) = (Unclaimed::default(), Duration::from_secs(5));
        let mut note = |second: u64, shards: &[u16]| {
            let now = start + Duration::from_secs(second);
            let longest = unclaimed.note(shards.iter().copied(), now);
            let blocked = (second % 2 == 1).then(|| "process 7 holds a lock".to_owned());
            let stalled = unclaimed.stalled(now, bound, DateTime::UNIX_EPOCH, blocked);
            let stalled = stalled.into_iter().map(|one| (one.shard, one.reason));
            (longest.as_secs(), stalled.collect::<Vec<_>>())
        };
        assert_eq!(note(0, &[1]), (0, vec![]));
        assert_eq!(note(4, &[1, 2]), (4, vec![]));
        let reason = HOLDING_TRANSACTION.to_owned();
        assert_eq!(note(5, &[1, 2]), (5, vec![(1, reason)]));
        let reason = DATABASE_UNREACHABLE.to_owned();
        assert_eq!(note(10, &[2]), (6, vec![(2, reason)]));
        assert_eq!(note(11, &[]), (0, vec![]));
        assert_eq!(note(30, &[2]), (0, vec![]), "it was claimed meanwhile");
    }
}
