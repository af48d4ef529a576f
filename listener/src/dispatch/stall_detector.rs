//! Which shards have work that waits and does not get on, and why.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::pod_status::{
    BLOCKED_BY_TRANSACTION, CONCURRENCY_LIMIT_REACHED, DATABASE_UNREACHABLE, ENDPOINT_FAILING,
    StalledShard,
};
use tokio::time::Instant;

use super::Dispatcher;
use crate::admission::circuit_breaker::Condition;
use crate::capture::reader::shard_of;

/// Since when each shard has had work without any getting done.
#[derive(Debug, Default)]
pub(crate) struct Patience(BTreeMap<u16, Waiting>);

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// How much was done then.
    done: u64,
}

impl Patience {
    /// Takes note of how much is done of each shard and whether work waits; gives those in which
    /// none was done for as long as `bound` although it waits, with how long that has been so.
    fn note(
        &mut self,
        shards: impl Iterator<Item = (u16, u64, bool)>,
        now: Instant,
        bound: Duration,
    ) -> Vec<(u16, Duration)> {
        let mut seen = BTreeMap::new();
        let mut lasting = Vec::new();
        for (shard, done, waits) in shards {
            let before = self
                .0
                .get(&shard)
                .filter(|before| waits && before.done == done);
            let since = before.map_or(now, |before| before.since);
            let lasts = now.saturating_duration_since(since);
            if waits && lasts >= bound {
                lasting.push((shard, lasts));
            }
            seen.insert(shard, Waiting { since, done });
        }
        self.0 = seen;
        lasting
    }
}

impl Dispatcher {
    /// Looks at all shards, and tells of those that do not get on.
    pub(crate) fn look_for_stalls(&mut self) {
        let of = self.setup.shards;
        let with_jobs = self.queued.iter().map(|(lane, _)| shard_of(lane.1, of));
        self.ledger.set_shards_with_jobs(&with_jobs.collect());
        let unread = self.backlog > 0 || self.taking.is_some();
        let shards = self.ledger.progress();
        let shards = shards.map(|(shard, done, pending)| (shard, done, pending || unread));
        let (now, bound) = (Instant::now(), self.setup.stalled_after);
        let lasting = self.patience.note(shards, now, bound);
        let at = Utc::now();
        let stalled = lasting
            .into_iter()
            .map(|(shard, lasts)| self.stalled(shard, lasts, at))
            .collect();
        self.setup.reporter.stalled_at_work(stalled);
    }

    fn stalled(&self, shard: u16, lasts: Duration, now: DateTime<Utc>) -> StalledShard {
        let (reason, message) = self.why(shard, lasts);
        StalledShard {
            shard,
            reason: reason.to_owned(),
            message,
            since: (now - lasts).to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }

    /// Reason and message. While the cause is the same, so are they.
    fn why(&self, shard: u16, lasts: Duration) -> (&'static str, String) {
        let health = &self.setup.writer.health;
        if let Some(blocked) = health.blocked() {
            return (BLOCKED_BY_TRANSACTION, blocked);
        }
        let away = health.database_away(Instant::now());
        if away.is_some_and(|away| away * 2 > lasts) {
            let message = "the database does not answer; what waits goes on once it does";
            return (DATABASE_UNREACHABLE, message.to_owned());
        }
        let pending = self.ledger.first_pending(shard);
        let found = pending.and_then(|place| self.lanes.find_head(|work| work.place == place));
        let full = || {
            let message = "events wait and there is no room to take them in; see the stalled shards beside \
                           this one for what takes the room";
            (CONCURRENCY_LIMIT_REACHED, message.to_owned())
        };
        let Some((lane, work)) = found else {
            return self.why_jobs_wait(shard).unwrap_or_else(full);
        };
        let Some(compiled) = self.targets.target(lane.0) else {
            return full();
        };
        let (observer, action) = &compiled.name;
        let event = &work.event.id;
        let message = match work.history.last() {
            Some(last) => format!(
                "event {event} waits for action {action} of observer {observer}: {}. Put the receiver right, or \
                 take the action out",
                last.error
            ),
            None if work.attempts > 0 => format!(
                "event {event} waits for the answer of the receiver of action {action} of observer {observer}. Put \
                 the receiver right, or give the action a shorter timeout"
            ),
            None => return self.why_jobs_wait(shard).unwrap_or_else(full),
        };
        (ENDPOINT_FAILING, message)
    }

    /// What keeps the jobs of a shard waiting, where it has some.
    fn why_jobs_wait(&self, shard: u16) -> Option<(&'static str, String)> {
        let of = self.setup.shards;
        let firsts = self.queued.iter();
        let firsts = firsts.filter(|(lane, _)| shard_of(lane.1, of) == shard);
        let firsts = firsts.filter_map(|(lane, first)| Some((lane, first?)));
        let (lane, first) = firsts.min_by_key(|(_, first)| first.log_id)?;
        let compiled = self.targets.target(lane.0)?;
        let (observer, action) = &compiled.name;
        let event = &first.event_id;
        let standing = compiled.action.standing();
        let left_alone = standing.filter(|it| it.condition != Condition::Closed);
        let why = match left_alone
            .and_then(|it| it.why)
            .as_ref()
            .or(first.error.as_ref())
        {
            Some(error) => format!("{error}. Put the receiver right, or take the action out"),
            None => format!(
                "it is waiting for its turn after {} attempts",
                first.attempts
            ),
        };
        let message =
            format!("event {event} waits for action {action} of observer {observer}: {why}");
        Some((ENDPOINT_FAILING, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_stalled_while_work_waits_and_none_is_done() {
        let (start, bound) = (Instant::now(), Duration::from_secs(10));
        let mut patience = Patience::default();
        let mut note = |second, done, waits| {
            let now = start + Duration::from_secs(second);
            let lasting = patience.note([(3, done, waits)].into_iter(), now, bound);
            lasting.first().map(|(_, lasts)| lasts.as_secs())
        };
        assert_eq!(note(0, 0, true), None);
        assert_eq!(note(9, 0, true), None);
        assert_eq!(note(11, 0, true), Some(11));
        assert_eq!(note(12, 1, true), None, "something was done");
        assert_eq!(note(20, 1, true), None);
        assert_eq!(note(21, 1, false), None, "nothing waits");
        assert_eq!(note(30, 1, true), None);
        assert_eq!(note(31, 1, true), Some(10));
    }
}
