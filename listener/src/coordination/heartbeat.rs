//! Heartbeats of a listener's processes in its database: which observers each of them runs, which of its
//! circuit breakers are open, and what it did in the last hour. This module owns `observer.member` and `observer.config`.
//!
//! Without a cluster nobody hands out the configuration, so two processes may run different files, and
//! an event meets the observers of the process that owns its shard. Of two configurations the newer is
//! the one that was seen later in the database. A process with an older one stands by while one with a
//! newer one is alive. In a cluster all pods get the same bundle, and the operator sees to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::pod_status::BreakerState;
use prometheus::Gauge;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::membership::{Coordination, MemberIdentity};
use super::process;
use crate::cache::CacheStats;
use crate::observers::Observers;
use crate::sync::lock;
use crate::telemetry::activity::{self, Activity, MinuteActivity};

/// Interval of heartbeats without a cluster, where they decide who takes part, and their lifetime.
const OF_FILES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(12));

/// Interval and lifetime in a cluster, where they only inform.
const IN_CLUSTER: (Duration, Duration) = (Duration::from_secs(30), Duration::from_mins(2));

/// Grace period for an older configuration before the process stands by, since files do not change at
/// the same moment on all machines and in all processes.
const GRACE: Duration = Duration::from_secs(5);

/// Timeout of one heartbeat.
const LONGEST_BEAT: Duration = Duration::from_secs(5);

/// Maximum number of open circuit breakers stored for a process.
const MOST_CIRCUITS: usize = 100;

/// Seconds by which clocks may differ without a word about it.
const MAX_CLOCK_OFFSET: f64 = 10.0;

/// Another process of the listener, with a newer configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewerConfig {
    /// Its name.
    pub member: String,
    /// Since when its configuration has been known.
    pub since: DateTime<Utc>,
}

/// State of a live process of a listener, for display.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberState {
    /// Its name.
    pub name: String,
    /// Digest of the observers that it runs.
    pub config_digest: String,
    /// Since when any process of the listener has run these.
    pub config_since: DateTime<Utc>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Its circuit breakers that are not closed: `observer`, `action`, `state`, `error`.
    pub open_circuits: Value,
    /// What its cache holds and has served, where an observer has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheStats>,
}

/// A minute, and the activity that was stored in it.
type StoredActivity = (i64, Vec<MinuteActivity>);

/// Heartbeat of this process.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    pool: PgPool,
    listener: Arc<str>,
    member: MemberIdentity,
    observers: watch::Receiver<Arc<Observers>>,
    decides: bool,
    clock_offset: Gauge,
    activity: Activity,
    /// The activity that is stored, and the minute in which it was.
    stored: Arc<Mutex<Option<StoredActivity>>>,
}

impl Heartbeat {
    /// Creates the heartbeat of a member of a listener.
    pub(crate) fn new(
        pool: PgPool,
        listener: &str,
        member: &MemberIdentity,
        observers: watch::Receiver<Arc<Observers>>,
        coordination: &Coordination,
        (clock_offset, activity): (Gauge, Activity),
    ) -> Self {
        Self {
            pool,
            listener: Arc::from(listener),
            member: member.clone(),
            observers,
            decides: matches!(coordination, Coordination::Database),
            clock_offset,
            activity,
            stored: Arc::default(),
        }
    }

    /// Sends heartbeats until `stop`, and says through `newer` when this process must stand by. The
    /// last one says that the process has ended.
    pub(crate) async fn run(
        mut self,
        newer: watch::Sender<Option<NewerConfig>>,
        stop: CancellationToken,
    ) {
        let (period, _) = self.cadence();
        let mut behind_since = None;
        while !stop.is_cancelled() {
            self.observers.mark_unchanged();
            match timeout(LONGEST_BEAT, self.beat()).await {
                Ok(Ok(found)) => {
                    behind_since = behind(behind_since, found.is_some(), Instant::now());
                    let must_stand_by = behind_since.is_some_and(|since| since.elapsed() >= GRACE);
                    newer.send_replace(found.filter(|_| must_stand_by));
                }
                // The session reports what is wrong with the database.
                Ok(Err(error)) => tracing::debug!(%error, "heartbeat failed"),
                Err(_) => tracing::debug!("heartbeat timed out"),
            }
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                Ok(()) = self.observers.changed() => {}
                () = stop.cancelled() => {}
            }
        }
        // One that stands by goes on to send heartbeats, and is to be seen without a gap.
        let stands_by = newer.borrow().is_some();
        if !stands_by {
            let _expired = timeout(LONGEST_BEAT, self.expire()).await;
        }
    }

    /// Sends one heartbeat. Returns the process whose configuration is newer than this one's, if there
    /// is one that is alive and this one is to heed it.
    pub(crate) async fn beat(&self) -> Result<Option<NewerConfig>, sqlx::Error> {
        let observers = Arc::clone(&self.observers.borrow());
        let (_, lifetime) = self.cadence();
        let before = Utc::now();
        let activity = self.activity_to_store(activity::minute_of(before));
        let of_server: DateTime<Utc> = sqlx::query_scalar(
            "with old_members as (
                 delete from observer.member
                 where listener = $1 and name <> $2 and expires_at < clock_timestamp() - interval '1 day'
             ), old_configs as (
                 delete from observer.config
                 where listener = $1 and digest <> $4 and seen_at < clock_timestamp() - interval '7 days'
             ), known as (
                 insert into observer.config as c (listener, digest) values ($1, $4)
                 on conflict (listener, digest) do update set seen_at = clock_timestamp()
                 where c.seen_at < clock_timestamp() - interval '1 hour'
             )
             insert into observer.member as m (listener, name, uid, config_digest, expires_at, open_circuits, cache,
                 activity)
             values ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5), $6, $7, coalesce($8::jsonb, '[]'))
             on conflict (listener, name) do update
             set uid = excluded.uid, config_digest = excluded.config_digest, expires_at = excluded.expires_at,
                 open_circuits = excluded.open_circuits, cache = excluded.cache,
                 activity = case when $8 is null and m.uid = excluded.uid then m.activity else excluded.activity end
             returning clock_timestamp()",
        )
        .bind(&*self.listener)
        .bind(&self.member.name)
        .bind(&self.member.uid)
        .bind(observers.digest())
        .bind(lifetime.as_secs_f64())
        .bind(Json(open_circuits(&observers)))
        .bind(observers.cache_stats().map(Json))
        .bind(activity.as_ref().map(|(_, minutes)| Json(minutes)))
        .fetch_one(&self.pool)
        .await?;
        if activity.is_some() {
            *lock(&self.stored) = activity;
        }
        self.record_clock(clock_offset(before, of_server, Utc::now()));
        if !self.decides {
            return Ok(None);
        }
        self.newest_other(observers.digest()).await
    }

    /// Returns the activity if it is to be stored in this minute: once, and only if there is some that is new.
    fn activity_to_store(&self, minute: i64) -> Option<(i64, Vec<MinuteActivity>)> {
        let minutes = self.activity.minutes();
        is_due(lock(&self.stored).as_ref(), minute, &minutes).then_some((minute, minutes))
    }

    /// Records how far the clock of this process is from the server's, and logs it when that begins or ends.
    fn record_clock(&self, offset: f64) {
        let was_wrong = self.clock_offset.get().abs() > MAX_CLOCK_OFFSET;
        self.clock_offset.set(offset);
        match (was_wrong, offset.abs() > MAX_CLOCK_OFFSET) {
            (false, true) => tracing::warn!(
                "the clock of this machine differs from that of the database's server by {offset:.0} s: have both set \
                 by NTP. Signatures carry the time, so receivers may reject deliveries"
            ),
            (true, false) => tracing::info!("the clock agrees with that of the database's server"),
            _ => {}
        }
    }

    /// The live process with the newest configuration, where that is newer than `digest`.
    async fn newest_other(&self, digest: &str) -> Result<Option<NewerConfig>, sqlx::Error> {
        let rows = sqlx::query(
            "select m.name, m.uid, c.since
             from observer.config own
             join observer.config c on c.listener = own.listener and (c.since, c.digest) > (own.since, own.digest)
             join observer.member m on m.listener = c.listener and m.config_digest = c.digest
             where own.listener = $1 and own.digest = $2 and m.expires_at > clock_timestamp()
             order by c.since desc, m.name",
        )
        .bind(&*self.listener)
        .bind(digest)
        .fetch_all(&self.pool)
        .await?;
        let ended = process::ended();
        for row in &rows {
            if let Some(member) = unless_ended(row, &ended)? {
                let since = row.try_get(2)?;
                return Ok(Some(NewerConfig { member, since }));
            }
        }
        Ok(None)
    }

    async fn expire(&self) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update observer.member set expires_at = clock_timestamp(), open_circuits = '[]'
             where listener = $1 and name = $2",
        )
        .bind(&*self.listener)
        .bind(&self.member.name)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    const fn cadence(&self) -> (Duration, Duration) {
        if self.decides { OF_FILES } else { IN_CLUSTER }
    }
}

/// Returns whether the activity is to be stored in a minute, given what was stored before and in which.
fn is_due(stored: Option<&StoredActivity>, minute: i64, activity: &[MinuteActivity]) -> bool {
    match stored {
        None => !activity.is_empty(),
        Some((stored_in, stored)) => *stored_in < minute && stored != activity,
    }
}

/// Returns by how many seconds this clock is ahead of the server's, of which one time between two of this clock
/// is known. Nothing less is told than what the question took.
fn clock_offset(before: DateTime<Utc>, of_server: DateTime<Utc>, after: DateTime<Utc>) -> f64 {
    if of_server < before {
        (before - of_server).as_seconds_f64()
    } else if of_server > after {
        (after - of_server).as_seconds_f64()
    } else {
        0.0
    }
}

/// Returns since when this process has been behind, if it is.
fn behind(before: Option<Instant>, is_behind: bool, now: Instant) -> Option<Instant> {
    is_behind.then(|| before.unwrap_or(now))
}

/// Returns the circuit breakers that are not closed.
fn open_circuits(observers: &Observers) -> Value {
    let open = observers.open_circuits().map(|(target, standing, state)| {
        let state = match state {
            BreakerState::HalfOpen => "halfOpen",
            BreakerState::Open => "open",
        };
        let (observer, action) = (&*target.name.observer, &*target.name.action);
        serde_json::json!({
            "observer": observer, "action": action, "state": state, "error": standing.why,
        })
    });
    open.take(MOST_CIRCUITS).collect()
}

/// Reads the live processes of a listener by their heartbeats, the newest configuration first.
pub async fn members(pool: &PgPool, listener: &str) -> Result<Vec<MemberState>, sqlx::Error> {
    let rows = sqlx::query(
        "select m.name, m.uid, m.config_digest, c.since, m.started_at, m.open_circuits, m.cache
         from observer.member m
         join observer.config c on c.listener = m.listener and c.digest = m.config_digest
         where m.listener = $1 and m.expires_at > clock_timestamp()
         order by c.since desc, m.name",
    )
    .bind(listener)
    .fetch_all(pool)
    .await?;
    let ended = process::ended();
    let read = |row: &PgRow| -> Result<Option<MemberState>, sqlx::Error> {
        let Some(name) = unless_ended(row, &ended)? else {
            return Ok(None);
        };
        Ok(Some(MemberState {
            name,
            config_digest: row.try_get(2)?,
            config_since: row.try_get(3)?,
            started_at: row.try_get(4)?,
            open_circuits: row.try_get(5)?,
            cache: row
                .try_get::<Option<Json<_>>, _>(6)?
                .map(|Json(stats)| stats),
        }))
    };
    rows.iter()
        .filter_map(|row| read(row).transpose())
        .collect()
}

/// Reads what the live processes of a listener did in each minute of the last hour.
pub(crate) async fn activity(
    pool: &PgPool,
    listener: &str,
) -> Result<Vec<MinuteActivity>, sqlx::Error> {
    let rows = sqlx::query(
        "select name, uid, activity from observer.member where listener = $1 and expires_at > clock_timestamp()",
    )
    .bind(listener)
    .fetch_all(pool)
    .await?;
    let ended = process::ended();
    let mut all = Vec::new();
    for row in &rows {
        if unless_ended(row, &ended)?.is_some() {
            let Json(minutes): Json<Vec<MinuteActivity>> = row.try_get(2)?;
            all.extend(minutes);
        }
    }
    Ok(all)
}

/// The name of the member in a row that begins with name and uid, unless it is known to have ended.
fn unless_ended(row: &PgRow, ended: &impl Fn(&str) -> bool) -> Result<Option<String>, sqlx::Error> {
    let (name, uid): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    Ok((!ended(&format!("{name}_{uid}_"))).then_some(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_behind_counts_from_the_first_heartbeat_behind() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3);
        assert_eq!(behind(None, false, now), None);
        assert_eq!(behind(None, true, now), Some(now));
        assert_eq!(behind(Some(now), true, later), Some(now));
        assert_eq!(behind(Some(now), false, later), None);
    }

    #[test]
    fn activity_is_stored_once_a_minute_and_not_while_idle() {
        let some = vec![MinuteActivity {
            minute: 7,
            events: 1,
            ..MinuteActivity::default()
        }];
        assert!(!is_due(None, 7, &[]));
        assert!(is_due(None, 7, &some));
        let stored = (7, Vec::new());
        assert!(!is_due(Some(&stored), 7, &some));
        assert!(is_due(Some(&stored), 8, &some));
        assert!(!is_due(Some(&(7, some.clone())), 9, &some));
    }

    #[test]
    fn clocks_differ_by_no_more_than_is_known() {
        let time = |seconds: i64| DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap();
        let offset = |before: i64, of_server: i64, after: i64| {
            clock_offset(time(before), time(of_server), time(after)).to_string()
        };
        assert_eq!(offset(10, 12, 15), "0");
        assert_eq!(offset(10, 4, 15), "6", "this clock is ahead");
        assert_eq!(offset(10, 45, 15), "-30", "this clock is behind");
    }
}
