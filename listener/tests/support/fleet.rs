//! Several processes that share the shards of one listener.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::RngExt;
use rand::rngs::StdRng;
use sqlx::PgPool;
use testkit::http_sink::Sink;

use super::listener::{Config, Process, observer, patient};
use super::while_progressing_or;

/// A Lease for tests in which processes die: others need not wait for long, and a busy machine
/// still manages to renew it.
pub(crate) const SHORT_LEASE: &str =
    "  lease: {duration: 3s, renewDeadline: 2s, retryPeriod: 400ms}\n";

/// A Lease for tests in which none may be lost, however busy the machine is. Shards move as soon
/// as with the other.
pub(crate) const LONG_LEASE: &str =
    "  lease: {duration: 60s, renewDeadline: 50s, retryPeriod: 400ms}\n";

/// Saves often, so that little is repeated after a fault.
pub(crate) const SAVE_OFTEN: &str = "  checkpoint: {interval: 100ms}\n";

/// Runs a process until some more requests have arrived at the sink, and then until any moment.
pub(crate) async fn run_for_a_while(config: &Config, sink: &Sink, random: &mut StdRng) -> Process {
    let before = sink.counts().requests;
    let mut process = Process::run(config);
    process.says("running").await;
    sink.arrived(before + random.random_range(1..400)).await;
    tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
    process
}

/// Files of one process: all events of the counters go to `path`. The URL is a secret, so that all
/// processes have the same observers.
pub(crate) fn files(url: &str, spec: &str, sink: &Sink, path: &str) -> Config {
    let spec = format!("{spec}{SAVE_OFTEN}");
    let sink = sink.url(path);
    let observers = patient(&observer("kv", "public.kv", &sink, "")).replace(
        &format!("{{value: \"{sink}\"}}"),
        "{secretKeyRef: {name: sink, key: url}}",
    );
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: sink}}\nstringData: {{url: \"{sink}\"}}\n---\n"
    );
    Config::new(url, &spec, &format!("{observers}{secret}"))
}

/// A shard as the database has it.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(crate) struct Owned {
    pub(crate) shard: i16,
    pub(crate) holder: String,
    pub(crate) claimed_at: Option<DateTime<Utc>>,
}

impl Owned {
    /// Whether the process with this number claimed it.
    pub(crate) fn by(&self, pid: u32) -> bool {
        self.holder.contains(&format!("-{pid}-"))
    }
}

/// All shards; none while the server is away.
pub(crate) async fn shards(pool: &PgPool) -> Vec<Owned> {
    let owned = "select shard, holder, claimed_at from observer.checkpoint order by shard";
    sqlx::query_as(owned)
        .fetch_all(pool)
        .await
        .unwrap_or_default()
}

/// Waits until these processes share so many shards evenly, and nobody else has any.
pub(crate) async fn shared(pool: &PgPool, count: usize, by: &[&Process]) {
    let pids: Vec<u32> = by.iter().map(|process| process.pid()).collect();
    let even = |shards: &[Owned]| {
        let mut parts: BTreeMap<u32, usize> = BTreeMap::new();
        for shard in shards {
            let owner = pids.iter().find(|pid| shard.by(**pid))?;
            *parts.entry(*owner).or_default() += 1;
        }
        let even = count.div_ceil(pids.len());
        let all = shards.len() == count && parts.len() == pids.len().min(count);
        (all && parts.values().all(|part| *part <= even)).then_some(())
    };
    let look = async || {
        let shards = shards(pool).await;
        even(&shards).ok_or(shards)
    };
    while_progressing_or(look, async || {
        let mut found = format!(
            "{count} shards shared by {pids:?}: {:#?}",
            shards(pool).await
        );
        for process in by {
            let said = process.said();
            let lines: Vec<_> = said.lines().rev().take(40).collect();
            let _ = write!(found, "\n{} said last:", process.pid());
            for line in lines.into_iter().rev() {
                let _ = write!(found, "\n  {line}");
            }
        }
        found
    })
    .await;
}

/// Waits until none of the shards is left with any but these processes, and returns them.
pub(crate) async fn taken_over(pool: &PgPool, count: usize, by: &[&Process]) -> Vec<Owned> {
    let pids: Vec<u32> = by.iter().map(|process| process.pid()).collect();
    let look = async || {
        let shards = shards(pool).await;
        let theirs = |shard: &Owned| pids.iter().any(|pid| shard.by(*pid));
        let all = shards.len() == count && shards.iter().all(theirs);
        if all { Ok(shards) } else { Err(shards) }
    };
    while_progressing_or(look, async || {
        format!("{count} shards with {pids:?}: {:#?}", shards(pool).await)
    })
    .await
}

/// How long after `fault` the shards of the process with this number, as they were `before`, were
/// claimed by others, in seconds; `None` where it had none.
pub(crate) fn failover(
    before: &[Owned],
    pid: u32,
    after: &[Owned],
    fault: DateTime<Utc>,
) -> Option<f64> {
    let lost: Vec<i16> = before
        .iter()
        .filter(|one| one.by(pid))
        .map(|one| one.shard)
        .collect();
    let again = after.iter().filter(|one| lost.contains(&one.shard));
    let end = again.filter_map(|one| one.claimed_at).max()?;
    Some((end - fault).as_seconds_f64())
}

/// The middle one, and the greatest.
pub(crate) fn median_and_most(mut all: Vec<f64>) -> (f64, f64) {
    all.sort_by(f64::total_cmp);
    let middle = all.get(all.len() / 2).copied().unwrap_or_default();
    (middle, all.last().copied().unwrap_or_default())
}
