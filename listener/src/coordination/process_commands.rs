//! What people ask all processes of a listener to do: to close circuit breakers, or to log more or less for a
//! while. This module owns `observer.process_command`.
//!
//! Each process reads the rows once a second, and answers in them. They are written one at a time, so that the
//! order of their numbers is that of their commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::queue::sql_transaction;
use program::logs;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::heartbeat;
use crate::observers::Observers;

/// Interval at which a process reads what it is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Timeout of a read, and of an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Most commands that are read at once.
const MAX_ROWS: i64 = 100;

/// How long after it was asked a process still closes circuit breakers.
const BREAKERS_FOR: Duration = Duration::from_mins(1);

/// How long after it was asked a process still takes notice of a filter that is over by then.
const FILTERS_FOR: Duration = Duration::from_mins(1);

/// Interval of looks for answers.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whose circuit breakers are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BreakerScope {
    /// Only those of this observer, `namespace/name`.
    pub observer: Option<String>,
    /// Only that of this action of the observer.
    pub action: Option<String>,
}

/// What a process is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessCommand {
    /// Close circuit breakers.
    CloseBreakers(BreakerScope),
    /// Log by this filter for a time; by that of the start of each process if absent.
    LogFilter(Option<(String, Duration)>),
}

/// What the processes of a listener have answered.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// By process: a number of circuit breakers, or an error as text.
    pub answered: BTreeMap<String, Value>,
    /// Processes that send heartbeats and have not answered in time.
    pub missing: Vec<String>,
}

/// Asks all processes of a listener. Returns the number of the command.
pub async fn ask(
    pool: &PgPool,
    listener: &str,
    command: &ProcessCommand,
) -> Result<i64, sqlx::Error> {
    let (kind, scope, filter, expires) = match command {
        ProcessCommand::CloseBreakers(scope) => {
            ("closeBreakers", scope.clone(), None, BREAKERS_FOR)
        }
        ProcessCommand::LogFilter(Some((filter, time))) => {
            ("logFilter", BreakerScope::default(), Some(filter), *time)
        }
        ProcessCommand::LogFilter(None) => {
            ("logFilter", BreakerScope::default(), None, BREAKERS_FOR)
        }
    };
    let mut tx = sql_transaction::begin(pool).await?;
    sqlx::query("lock table observer.process_command in share row exclusive mode")
        .execute(&mut *tx)
        .await?;
    // What is asked of the log replaces what was asked before.
    let id = sqlx::query_scalar(
        "with old as (
             delete from observer.process_command
             where expires_at < clock_timestamp() - interval '1 hour' or listener = $1 and kind = $2 and kind = 'logFilter'
         )
         insert into observer.process_command (listener, kind, observer, action, filter, expires_at)
         values ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6)) returning id",
    )
    .bind(listener)
    .bind(kind)
    .bind(&scope.observer)
    .bind(&scope.action)
    .bind(filter)
    .bind(expires.as_secs_f64())
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(id)
}

/// Waits until all processes that send heartbeats have answered, at most for this time.
pub async fn answers(
    pool: &PgPool,
    listener: &str,
    id: i64,
    most: Duration,
) -> Result<Answers, sqlx::Error> {
    let deadline = Instant::now() + most;
    loop {
        let members = heartbeat::members(pool, listener).await?;
        let answers: Option<Json<BTreeMap<String, Value>>> =
            sqlx::query_scalar("select answers from observer.process_command where id = $1")
                .bind(id)
                .fetch_optional(pool)
                .await?;
        let answered = answers.map(|Json(answers)| answers).unwrap_or_default();
        let missing: Vec<String> = members
            .into_iter()
            .map(|member| member.name)
            .filter(|name| !answered.contains_key(name))
            .collect();
        if missing.is_empty() || Instant::now() >= deadline {
            return Ok(Answers { answered, missing });
        }
        sleep(LOOK_INTERVAL).await;
    }
}

impl Answers {
    /// Returns how many circuit breakers were closed in all.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.answered.values().filter_map(Value::as_u64).sum()
    }

    /// Returns the processes that could not obey, with their errors.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        let answers = self.answered.iter();
        answers.filter_map(|(process, answer)| Some((process.as_str(), answer.as_str()?)))
    }

    /// Returns whether no process runs that could obey.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.answered.is_empty() && self.missing.is_empty()
    }
}

/// Command that was read.
#[derive(Debug)]
struct ReadCommand {
    id: i64,
    command: ProcessCommand,
}

/// Reads the commands after this number that concern a process: to close circuit breakers once and not too late,
/// and to log by a filter also where it is over but newly asked for, since it has replaced the one before.
async fn read_after(
    pool: &PgPool,
    listener: &str,
    member: &str,
    last: i64,
) -> Result<Vec<ReadCommand>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, kind, observer, action, filter,
                extract(epoch from expires_at - clock_timestamp())::float8
         from observer.process_command
         where listener = $1 and id > $2
             and case kind
                     when 'closeBreakers' then expires_at > clock_timestamp() and not answers ? $3
                     else greatest(expires_at, created_at + make_interval(secs => $4)) > clock_timestamp()
                 end
         order by id limit $5",
    )
    .bind(listener)
    .bind(last)
    .bind(member)
    .bind(FILTERS_FOR.as_secs_f64())
    .bind(MAX_ROWS)
    .fetch_all(pool)
    .await?;
    rows.iter().map(command).collect()
}

fn command(row: &PgRow) -> Result<ReadCommand, sqlx::Error> {
    let command = if row.try_get::<&str, _>(1)? == "closeBreakers" {
        ProcessCommand::CloseBreakers(BreakerScope {
            observer: row.try_get(2)?,
            action: row.try_get(3)?,
        })
    } else {
        let filter: Option<String> = row.try_get(4)?;
        let left = Duration::try_from_secs_f64(row.try_get(5)?).unwrap_or_default();
        // What is over by now is the end of what was asked before.
        let filter = filter.filter(|_| !left.is_zero());
        ProcessCommand::LogFilter(filter.map(|filter| (filter, left)))
    };
    let id = row.try_get(0)?;
    Ok(ReadCommand { id, command })
}

/// Obeys what people ask of this process.
#[derive(Debug)]
pub(crate) struct CommandFollower {
    pub(crate) pool: PgPool,
    pub(crate) listener: Arc<str>,
    /// Name of this process.
    pub(crate) member: String,
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
}

/// Filter of the log that is not the one of the start. Dropped, that one holds again.
#[derive(Debug, Default)]
struct LogOverride {
    until: Option<Instant>,
}

impl CommandFollower {
    /// Obeys until `stop`, after which the log is as it was at the start.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut logging) = (0, LogOverride::default());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = logging.is_over() => {
                    logging.end();
                    continue;
                }
            }
            let read = read_after(&self.pool, &self.listener, &self.member, last);
            let commands = match timeout(TIMEOUT, read).await {
                Ok(Ok(commands)) => commands,
                // The session reports what is wrong with the database.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot read what this process is asked");
                    continue;
                }
                Err(_) => continue,
            };
            for ReadCommand { id, command } in commands {
                last = id;
                let answer = self.obey(command, &mut logging);
                let answered = timeout(TIMEOUT, self.answer(id, &answer)).await;
                if !matches!(answered, Ok(Ok(()))) {
                    tracing::debug!(id, "cannot answer what this process was asked");
                }
            }
        }
    }

    fn obey(&self, command: ProcessCommand, logging: &mut LogOverride) -> Value {
        match command {
            ProcessCommand::CloseBreakers(scope) => {
                let (observer, action) = (scope.observer.as_deref(), scope.action.as_deref());
                let closed = self.observers.borrow().close_circuits(observer, action);
                if closed > 0 {
                    tracing::info!(observer, action, closed, "circuit breakers closed by hand");
                }
                closed.into()
            }
            ProcessCommand::LogFilter(filter) => match logging.begin(filter) {
                Ok(()) => Value::Null,
                Err(error) => error.to_string().into(),
            },
        }
    }

    /// Answers a command, unless this process did so before a restart of the server.
    async fn answer(&self, id: i64, answer: &Value) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update observer.process_command set answers = answers || jsonb_build_object($2, $3)
             where id = $1 and not answers ? $2",
        )
        .bind(id)
        .bind(&self.member)
        .bind(Json(answer))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl LogOverride {
    fn begin(&mut self, filter: Option<(String, Duration)>) -> Result<(), logs::FilterError> {
        let Some((filter, time)) = filter else {
            self.end();
            return Ok(());
        };
        let seconds = time.as_secs();
        tracing::info!(filter, seconds, "logging by another filter for a while");
        logs::set_filter(Some(&filter))?;
        self.until = Some(Instant::now() + time);
        Ok(())
    }

    /// Waits until it is over; for ever if there is none.
    async fn is_over(&self) {
        match self.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    fn end(&mut self) {
        if self.until.take().is_some() && logs::set_filter(None).is_ok() {
            tracing::info!("logging as at the start again");
        }
    }
}

impl Drop for LogOverride {
    fn drop(&mut self) {
        self.end();
    }
}
