//! `log-level`: log more or less for a while in all processes of a listener.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::{ArgGroup, Args};
use crds::duration::HumanDuration;
use observer_listener::coordination::process_commands::{self, ProcessCommand};
use program::logs;

use super::breaker::{PATIENCE, processes, require_all};
use super::output::say;
use super::schema::open_database_of_listener;
use super::{CliError, DatabaseArgs};

/// How long another filter may hold.
const TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").args(["filter", "reset"]).required(true))]
pub(super) struct LogLevelArgs {
    /// What is logged instead of what `RUST_LOG` said at the start, as `debug` or `info,observer::attempt=debug`
    #[arg(value_parser = filter)]
    filter: Option<String>,
    /// For how long, up to 24h; then each process logs as at its start
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = time)]
    time: Duration,
    /// Log as at the start again
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

fn filter(text: &str) -> Result<String, logs::FilterError> {
    logs::check_filter(text).map(|()| text.to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    let time: HumanDuration = text.parse().map_err(|error| format!("`{text}` {error}"))?;
    if TIMES.contains(&time.duration()) {
        return Ok(time.duration());
    }
    Err("use 1s to 24h".to_owned())
}

/// Runs `log-level`.
pub(super) async fn log_level(args: LogLevelArgs) -> Result<(), CliError> {
    let database = args.database.resolve().await?;
    let (pool, listener) = open_database_of_listener(&database).await?;
    let time = HumanDuration::from_secs(args.time.as_secs());
    let done = match &args.filter {
        Some(filter) => format!("by {filter} for {time}"),
        None => "as at the start again".to_owned(),
    };
    // A filter also holds for processes that start before it ends.
    let later = match &args.filter {
        Some(_) => format!("those that start until then log {done}"),
        None => "no other filter waits for those that start".to_owned(),
    };
    let asked = ProcessCommand::LogFilter(args.filter.map(|filter| (filter, args.time)));
    let id = process_commands::ask(&pool, &listener, &asked).await?;
    let answers = process_commands::answers(&pool, &listener, id, PATIENCE).await?;
    for (process, error) in answers.failures() {
        logs::say(&format!("{process}: {error}\n"));
    }
    if answers.failures().next().is_some() {
        return Err(anyhow::anyhow!("not all processes log {done}").into());
    }
    if answers.is_unheard() {
        return say!("no process of {listener} runs now; {later}");
    }
    say!("{} log {done}", processes(answers.answered.len()))?;
    require_all(&answers)
}
