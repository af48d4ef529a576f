//! Shards that should be this process's and cannot be had.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::report::{NO_LEASE, StalledShard};
use lease::fleet::{Seat, Standing};
use tokio::time::Instant;

/// Since when each of them has been wanted.
#[derive(Debug, Default)]
pub(crate) struct Waiting(BTreeMap<u16, Instant>);

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
            let before = self.0.get(&seat.shard);
            (seat.shard, before.copied().unwrap_or(now))
        };
        let now_wanted: BTreeMap<u16, Instant> = wanted.clone().map(since).collect();
        self.0 = now_wanted;
        let stalled = wanted.filter_map(|seat| {
            let since = self.0.get(&seat.shard)?;
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
}

/// While the cause is the same, so are the words.
fn message(seat: &Seat, standing: &Standing) -> String {
    match (&standing.trouble, &seat.holder) {
        (Some(trouble), _) => format!("its Lease cannot be had: {trouble}"),
        (None, Some(holder)) => format!("its Lease cannot be had, as {holder} still holds it"),
        (None, None) => "its Lease cannot be had".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
