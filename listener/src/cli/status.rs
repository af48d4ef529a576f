//! `status`: shards, processes, jobs and circuit breakers of listeners.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::queue::{JobQueue, QueueStats};
use chrono::{DateTime, Utc};
use clap::Args;
use crds::duration::HumanDuration;
use observer_listener::checkpoint::status::{self, ShardState};
use observer_listener::coordination::heartbeat::{self, MemberState};
use observer_listener::coordination::live_processes;
use observer_listener::database::diagnose;
use observer_listener::dead_letters::admin::{self, DeadLetterFilter};
use serde::Serialize;
use sqlx::PgPool;

use super::output::{OutputFormat, counted, say, time};
use super::{CliError, DatabaseArgs, jobs, table, watch};

/// Bounds of the time between two looks of `--watch`.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// Show it again and again until Ctrl-C: in place on a terminal, else below each other; with `-o json`
    /// one document on each line
    #[arg(long, short)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval, requires = "watch")]
    interval: Duration,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval: HumanDuration = text.parse().map_err(|error| format!("`{text}` {error}"))?;
    let interval = interval.duration();
    if INTERVALS.contains(&interval) {
        return Ok(interval);
    }
    Err("use 100ms to 1h".to_owned())
}

/// Status of a listener.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListenerStatus {
    listener: String,
    dead_letters: u64,
    /// Jobs by observer; `None` if they are in Redis and no files say how to reach it.
    jobs: Option<BTreeMap<String, JobCounts>>,
    /// Processes that run or may run.
    processes: Vec<String>,
    /// Processes that send heartbeats, those with the newest observers first.
    members: Vec<MemberState>,
    shards: Vec<ShardStatus>,
}

/// Job counts of an observer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobCounts {
    pending: u64,
    available: u64,
    scheduled: u64,
    running: u64,
    blocked: u64,
    oldest_seconds: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShardStatus {
    #[serde(flatten)]
    state: ShardState,
    /// Whether the owner has ended.
    owner_is_gone: bool,
}

/// Prints the status of a listener, or of all in the database; with `--watch` again and again.
pub(super) async fn status(args: StatusArgs) -> Result<(), CliError> {
    let (pool, listener, queue) = jobs::open_for_status(args.database).await?;
    let output = args.output;
    let look = async || {
        let states = states(&pool, listener.as_deref(), queue.as_deref()).await?;
        match output {
            OutputFormat::Json if args.watch => Ok(serde_json::to_string(&states)?),
            OutputFormat::Json => Ok(serde_json::to_string_pretty(&states)?),
            OutputFormat::Table => Ok(described(&states, listener.as_deref())),
        }
    };
    if !args.watch {
        return say!("{}", look().await?);
    }
    watch::repeat(args.interval, output, async || match look().await {
        // A pool only knows that no connection came in time.
        Err(CliError::Run(error)) => Err(match diagnose(&pool).await {
            Some(why) => anyhow::anyhow!(why).into(),
            None => CliError::Run(error),
        }),
        looked => looked,
    })
    .await
}

/// Reads the status of a listener, or of all in the database.
async fn states(
    pool: &PgPool,
    listener: Option<&str>,
    queue: Option<&dyn JobQueue>,
) -> Result<Vec<ListenerStatus>, CliError> {
    let mut states: Vec<ListenerStatus> = Vec::new();
    for shard in status::list(pool, listener).await? {
        if states
            .last()
            .is_none_or(|last| last.listener != shard.listener)
        {
            let jobs = match queue {
                Some(queue) => Some(queue.stats().await?),
                None => jobs::stats_in_postgres(pool, &shard.listener).await?,
            };
            states.push(state(pool, shard.listener.clone(), jobs).await?);
        }
        if let Some(last) = states.last_mut() {
            let gone = |owner: &String| !last.processes.contains(owner);
            let owner_is_gone = shard.owner.as_ref().is_some_and(gone);
            let state = shard;
            last.shards.push(ShardStatus {
                state,
                owner_is_gone,
            });
        }
    }
    Ok(states)
}

/// Formats states for people.
fn described(states: &[ListenerStatus], listener: Option<&str>) -> String {
    if states.is_empty() {
        return match listener {
            Some(listener) => format!("listener {listener} has not run in this database yet"),
            None => "no listener has run in this database yet".to_owned(),
        };
    }
    let now = Utc::now();
    let lines: Vec<String> = states.iter().flat_map(|state| lines(state, now)).collect();
    lines.join("\n")
}

/// Returns the status of a listener without its shards.
async fn state(
    pool: &PgPool,
    listener: String,
    jobs: Option<Vec<(String, QueueStats)>>,
) -> Result<ListenerStatus, CliError> {
    let what = DeadLetterFilter {
        listener: Some(listener.clone()),
        ..DeadLetterFilter::default()
    };
    let counts = |stats: QueueStats| JobCounts {
        pending: stats.pending,
        available: stats.available,
        scheduled: stats.scheduled(),
        running: stats.running,
        blocked: stats.blocked,
        oldest_seconds: stats.oldest_seconds,
    };
    let jobs = jobs.map(|jobs| {
        let jobs = jobs.into_iter();
        jobs.map(|(observer, stats)| (observer, counts(stats)))
            .collect()
    });
    Ok(ListenerStatus {
        dead_letters: admin::count(pool, &what).await?.unsigned_abs(),
        processes: live_processes::present(pool, &listener).await?,
        members: heartbeat::members(pool, &listener).await?,
        listener,
        jobs,
        shards: Vec::new(),
    })
}

/// Formats the lines of one listener's state.
fn lines(state: &ListenerStatus, now: DateTime<Utc>) -> Vec<String> {
    let shards = state.shards.first().map_or(0, |one| one.state.shards);
    let shards = counted(u64::from(shards.unsigned_abs()), "shard", "shards");
    let letters = counted(state.dead_letters, "dead letter", "dead letters");
    let processes = counted(state.processes.len() as u64, "process", "processes");
    let jobs = match &state.jobs {
        Some(jobs) => counted(jobs.values().map(|one| one.pending).sum(), "job", "jobs"),
        None => "jobs in Redis (name the files with -f FILE to have them counted)".to_owned(),
    };
    let first = format!(
        "{}: {shards}, {processes}, {jobs}, {letters}",
        state.listener
    );
    let mut lines = vec![table::fitted(first)];
    let shards: Vec<_> = state.shards.iter().map(|shard| row(shard, now)).collect();
    let head = ["  SHARD", "EPOCH", "LAG", "SINCE", "OWNER"];
    lines.extend(table::formatted(head, &shards));
    let waiting = state.jobs.iter().flatten();
    let waiting: Vec<_> = waiting
        .filter(|(_, one)| one.pending > 0)
        .map(job_row)
        .collect();
    if !waiting.is_empty() {
        let head = [
            "  JOBS",
            "AVAILABLE",
            "SCHEDULED",
            "RUNNING",
            "BLOCKED",
            "OLDEST",
            "OBSERVER",
        ];
        lines.extend(table::formatted(head, &waiting));
    }
    let outdated = outdated(&state.members);
    if !outdated.is_empty() {
        let head = ["  OUTDATED SINCE", "PROCESS (STANDBY)"];
        lines.extend(table::formatted(head, &outdated));
    }
    let circuits = circuits(&state.members);
    if !circuits.is_empty() {
        let head = ["  CIRCUIT", "OBSERVER/ACTION", "PROCESS", "LAST ERROR"];
        lines.extend(table::formatted(head, &circuits));
    }
    lines
}

/// Returns rows of the processes that run outdated observers.
fn outdated(members: &[MemberState]) -> Vec<[String; 2]> {
    let newest = members.first().map(|one| &one.config_digest);
    let outdated = members
        .iter()
        .filter(|one| Some(&one.config_digest) != newest);
    let row = |one: &MemberState| [format!("  {}", time(one.config_since)), one.name.clone()];
    outdated.map(row).collect()
}

/// Returns rows of the circuit breakers that are not closed, of all processes.
fn circuits(members: &[MemberState]) -> Vec<[String; 4]> {
    let of_member = |one: &MemberState| {
        let circuits = one.open_circuits.as_array().into_iter().flatten();
        let rows = circuits.map(|circuit| {
            let text = |field: &str| circuit[field].as_str().unwrap_or_default();
            let state = if text("state") == "halfOpen" {
                "  half open"
            } else {
                "  open"
            };
            let action = format!("{}/{}", text("observer"), text("action"));
            let error = table::one_line(text("error"));
            [state.to_owned(), action, one.name.clone(), error]
        });
        rows.collect::<Vec<_>>()
    };
    members.iter().flat_map(of_member).collect()
}

fn job_row((observer, one): (&String, &JobCounts)) -> [String; 7] {
    let oldest = HumanDuration::from_secs(one.oldest_seconds).to_string();
    [
        format!("  {}", one.pending),
        one.available.to_string(),
        one.scheduled.to_string(),
        one.running.to_string(),
        one.blocked.to_string(),
        oldest,
        observer.clone(),
    ]
}

fn row(shard: &ShardStatus, now: DateTime<Utc>) -> [String; 5] {
    let ShardStatus {
        state,
        owner_is_gone,
    } = shard;
    let lag = state
        .oldest
        .map_or(0, |oldest| (now - oldest).num_seconds());
    let lag = HumanDuration::from_secs(u64::try_from(lag).unwrap_or(0)).to_string();
    let owner = match &state.owner {
        Some(owner) if *owner_is_gone => format!("nobody: {owner} is gone"),
        Some(owner) => owner.clone(),
        None => "nobody".to_owned(),
    };
    let (number, epoch) = (format!("  {}", state.shard), state.epoch.to_string());
    [number, epoch, lag, time(state.since), owner]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_row_has_lag_and_owner() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        let mut shard = ShardStatus {
            state: ShardState {
                listener: "default/shop".to_owned(),
                shard: 3,
                shards: 8,
                owner: Some("shop-1_a_b".to_owned()),
                epoch: 12,
                since: at(0),
                saved_at: at(50),
                oldest: Some(at(40)),
            },
            owner_is_gone: false,
        };
        let since = "1970-01-01T00:00:00Z";
        assert_eq!(
            row(&shard, at(100)),
            ["  3", "12", "1m", since, "shop-1_a_b"]
        );
        shard.owner_is_gone = true;
        assert_eq!(row(&shard, at(100))[4], "nobody: shop-1_a_b is gone");
        shard.state.owner = None;
        shard.state.oldest = None;
        assert_eq!(row(&shard, at(100))[2..], ["0s", since, "nobody"]);
    }
}
