//! Owned, unowned and stalled shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::duration::HumanDuration;
use crds::pod_status::{
    BLOCKED_BY_TRANSACTION, CONCURRENCY_LIMIT_REACHED, DATABASE_UNREACHABLE, ENDPOINT_FAILING,
    OwnedShard, PodReport, Role, SHARD_UNOWNED,
};
use crds::v1alpha1::ShardStatus;
use k8s_openapi::jiff::Timestamp;

use super::{PodView, StatusInput};

/// Most shards that a status lists.
const MAX_SHARDS: usize = 256;

/// Most shards that a message lists for one cause.
const NUMBERS: usize = 8;

/// Most causes in a message.
const CAUSES: usize = 5;

/// A lag that differs from the shown one by less than this, in seconds, or by less than a quarter is
/// not written.
const NEAR: u64 = 5;

/// Reasons of stalled shards, the worst first; others come last.
const WORST: [&str; 5] = [
    DATABASE_UNREACHABLE,
    SHARD_UNOWNED,
    BLOCKED_BY_TRANSACTION,
    ENDPOINT_FAILING,
    CONCURRENCY_LIMIT_REACHED,
];

/// Owners of the shards.
pub(super) type Owners<'a> = BTreeMap<u16, (&'a PodReport, &'a OwnedShard)>;

/// Returns the owners of the shards. After a handover two pods may claim a shard; the later owner has
/// the higher epoch.
pub(super) fn owners(pods: &[PodView]) -> Owners<'_> {
    let mut owners = Owners::new();
    for report in pods.iter().filter_map(|pod| pod.report.as_ref()) {
        for owned in &report.shards {
            let later = owners
                .get(&owned.shard)
                .is_some_and(|(_, other)| other.epoch >= owned.epoch);
            if !later {
                owners.insert(owned.shard, (report, owned));
            }
        }
    }
    owners
}

/// Returns the ready pods without a report, which may own any shard.
pub(super) fn non_reporting(pods: &[PodView]) -> impl Iterator<Item = &PodView> {
    pods.iter()
        .filter(|pod| pod.seen.ready && pod.report.is_none())
}

/// Unowned shards, with the time since when the operator itself has seen no owner although pods are
/// there to take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnownedShards(BTreeMap<u16, Timestamp>);

impl UnownedShards {
    /// Updates it by the reports of the pods. While a ready pod does not report, no further shard counts
    /// as unowned.
    pub fn update(&mut self, pods: &[PodView], shards: u16, now: Timestamp) {
        let owners = owners(pods);
        let takes_part = |pod: &PodView| {
            let report = pod.report.as_ref();
            report.is_some_and(|report| matches!(report.role, Role::Active | Role::Standby))
        };
        if !pods.iter().any(takes_part) {
            self.0.clear();
            return;
        }
        self.0
            .retain(|shard, _| *shard < shards && !owners.contains_key(shard));
        if non_reporting(pods).next().is_none() {
            for shard in (0..shards).filter(|shard| !owners.contains_key(shard)) {
                self.0.entry(shard).or_insert(now);
            }
        }
    }

    /// Returns whether no shard is known to be unowned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns shards that have been unowned for longer than `patience`.
    fn longer_than(&self, patience: Duration, now: Timestamp) -> impl Iterator<Item = u16> {
        let long = move |since: Timestamp| {
            Duration::try_from(now.duration_since(since)).is_ok_and(|passed| passed > patience)
        };
        let found = self.0.iter().filter(move |(_, since)| long(**since));
        found.map(|(shard, _)| *shard)
    }
}

/// Shards that are stalled for the same cause.
#[derive(Debug)]
pub(super) struct StallGroup {
    /// The reason.
    pub(super) reason: String,
    /// The pod that reports it, unless the operator itself found it.
    pod: Option<String>,
    /// The message.
    message: String,
    /// The shards; never empty, in ascending order.
    shards: Vec<u16>,
}

impl StatusInput<'_> {
    /// Returns stalled shards by their causes, the worst first. Only the owner's report counts for a
    /// shard, and every report for an unowned one.
    pub(super) fn stalls(&self, owners: &Owners<'_>, now: Timestamp) -> Vec<StallGroup> {
        let mut said = BTreeMap::new();
        for report in self.reports() {
            for stalled in &report.stalled {
                let owner = owners.get(&stalled.shard).map(|(owner, _)| &owner.pod);
                if owner.is_none_or(|owner| *owner == report.pod) {
                    let cause = (&*stalled.reason, Some(&*report.pod), &*stalled.message);
                    // The pods come in no order, and the message should stay as it is.
                    let first = said.entry(stalled.shard).or_insert(cause);
                    *first = cause.min(*first);
                }
            }
        }
        let nobody = if self.awaits_report() {
            BTreeSet::new()
        } else {
            self.unowned_since
                .longer_than(self.stalled_after, now)
                .collect()
        };
        let message = format!(
            "without a pod for more than {}; see the pods' logs, and whether they may \
             write Leases",
            HumanDuration::from(self.stalled_after)
        );
        for shard in nobody {
            said.entry(shard).or_insert((SHARD_UNOWNED, None, &message));
        }
        let mut causes: BTreeMap<_, Vec<u16>> = BTreeMap::new();
        for (shard, (reason, pod, message)) in said {
            let rank = WORST.iter().position(|known| *known == reason);
            let cause = (rank.unwrap_or(WORST.len()), reason, pod, message);
            causes.entry(cause).or_default().push(shard);
        }
        causes
            .into_iter()
            .map(|((_, reason, pod, message), shards)| StallGroup {
                reason: reason.to_owned(),
                pod: pod.map(ToOwned::to_owned),
                message: message.to_owned(),
                shards,
            })
            .collect()
    }

    /// Returns whether a pod that does not report may own the unowned shards.
    pub(super) fn awaits_report(&self) -> bool {
        non_reporting(self.pods).next().is_some()
    }

    /// Returns the unowned shards.
    pub(super) fn unowned(&self, owners: &Owners<'_>) -> Vec<u16> {
        (0..self.shards)
            .filter(|shard| !owners.contains_key(shard))
            .collect()
    }
}

/// Returns the list for the status, given the one before.
pub(super) fn shard_statuses(owners: &Owners<'_>, before: &[ShardStatus]) -> Vec<ShardStatus> {
    let shown = |shard: i32| {
        let found = before.iter().find(|status| status.shard == shard);
        found.and_then(|status| status.lag.as_deref())
    };
    let list = owners.iter().map(|(&shard, (report, owned))| ShardStatus {
        shard: i32::from(shard),
        owner: report.pod.clone(),
        epoch: owned.epoch,
        since: owned.since.clone(),
        lag: Some(lag(owned.lag_seconds, shown(i32::from(shard)))),
    });
    list.take(MAX_SHARDS).collect()
}

/// Formats stalled shards: `shard 3 (pod shop-1): why`.
pub(super) fn describe(stalls: &[StallGroup]) -> String {
    let mut parts: Vec<String> = stalls
        .iter()
        .take(CAUSES)
        .map(|stall| {
            let pod = stall.pod.as_ref();
            let pod = pod.map_or_else(String::new, |pod| format!(" (pod {pod})"));
            format!("{}{pod}: {}", shard_list(&stall.shards), stall.message)
        })
        .collect();
    let more = stalls.iter().skip(CAUSES).map(|stall| stall.shards.len());
    let more: usize = more.sum();
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    parts.join("; ")
}

/// Formats shards: `shard 3`, or `shards 3, 4, 5 and 7 more`.
fn shard_list(shards: &[u16]) -> String {
    let numbers: Vec<String> = shards
        .iter()
        .take(NUMBERS)
        .map(ToString::to_string)
        .collect();
    let numbers = numbers.join(", ");
    match shards.len() {
        1 => format!("shard {numbers}"),
        all if all > NUMBERS => format!("shards {numbers} and {} more", all - NUMBERS),
        _ => format!("shards {numbers}"),
    }
}

/// Formats a lag. The shown one stays while the new one is near to it, so that small changes write
/// nothing; a lag of zero is always written.
pub(super) fn lag(seconds: u64, shown: Option<&str>) -> String {
    let near = |text: &&str| {
        text.parse::<HumanDuration>().is_ok_and(|old| {
            let old = old.duration().as_secs();
            old == seconds || seconds > 0 && old.abs_diff(seconds) < NEAR.max(old / 4)
        })
    };
    shown.filter(near).map_or_else(
        || HumanDuration::from_secs(seconds).to_string(),
        ToOwned::to_owned,
    )
}
