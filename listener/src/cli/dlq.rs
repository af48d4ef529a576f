//! `dead-letters`.

use std::io::IsTerminal;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand, ValueEnum};
use crds::duration::HumanDuration;
use observer_listener::dead_letters::admin::{self, Selection, Stored};
use program::logs;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::output::{agreed, counted, say, time};
use super::schema::{of_known, unnamed};
use super::table::{beginning, print};
use super::{CliError, DatabaseArgs, files, identity};

/// Most characters of an error in a table.
const ERROR_WIDTH: usize = 80;

/// Most dead letters that an export has in memory.
const PAGE: i64 = 100;

/// What becomes of what is handed to a listener.
pub(super) const TAKEN_UP: &str = "a running listener takes them up within seconds, or once the circuit breaker of \
    their endpoint lets them through (`status` shows those that are open)";

/// Time between two parts of a redrive at a rate.
const PART: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// List the newest
    List {
        #[command(flatten)]
        filter: Filter,
        /// Most to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// How to print them
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show one with its event and its history, as JSON
    Show {
        /// Its id, as in the list
        id: i64,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Have the listener try again, with the same ids as before
    Redrive {
        /// Most to hand to the listener in a second, in the order of their events; ended before
        /// all are, the rest stay what they are. Left out, all at once
        #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rate: Option<u32>,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Drop for good
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// Really drop all
        #[arg(long)]
        yes: bool,
    },
    /// Write all that the filters leave to standard output, the oldest first: a line of JSON each,
    /// with event and history
    Export {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// Ids
    ids: Vec<i64>,
    /// All that the filters leave, instead of ids
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only those of this observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only those of this action
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only those of this kind of failure, as the list shows it
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only those of events of this entity, as schema.table
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Only those of events of this key, as the list shows it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only those of events of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only those given up at this time or later, as 2026-03-01T12:00:00Z, or 24h for so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Only those given up before this time, written the same way
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
}

/// A time, a day, which begins at midnight UTC, or how long ago it was.
pub(super) fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Some(ago) = ago(text) {
        return Ok(Utc::now() - ago);
    }
    let day = || {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(day.and_hms_opt(0, 0, 0)?.and_utc())
    };
    let time = || {
        let given = DateTime::parse_from_rfc3339(text).ok()?;
        Some(given.with_timezone(&Utc))
    };
    time().or_else(day).ok_or_else(|| {
        "write a time such as 2026-03-01T12:00:00Z, a day (from midnight UTC) such as 2026-03-01, or how long ago, such \
         as 7d, 24h or 1h30m"
            .to_owned()
    })
}

/// So long ago: days, and what follows them as any duration.
fn ago(text: &str) -> Option<Duration> {
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) => (days.parse::<u32>().ok()?, rest),
        None => (0, text),
    };
    let rest = match rest {
        "" if days > 0 => Duration::ZERO,
        rest => rest.parse::<HumanDuration>().ok()?.duration(),
    };
    Some(Duration::from_hours(24) * days + rest)
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Output {
    /// Columns
    #[default]
    Table,
    /// One JSON array
    Json,
}

/// Runs a `dead-letters` command.
pub(super) async fn dlq(command: DlqCommand) -> Result<(), CliError> {
    match command {
        DlqCommand::List {
            filter,
            limit,
            output,
            database,
        } => {
            let (pool, what) = open(database, filter, None).await?;
            let letters = admin::list(&pool, &what, i64::MAX, limit).await?;
            match output {
                Output::Json => say!("{}", serde_json::to_string_pretty(&letters)?)?,
                Output::Table => table(&letters, admin::count(&pool, &what).await?)?,
            }
        }
        DlqCommand::Show { id, database } => {
            let (pool, what) = open(database, Filter::default(), Some(vec![id])).await?;
            let Some(letter) = admin::show(&pool, &what).await? else {
                return Err(anyhow::anyhow!(
                    "there is no dead letter {id}; `dead-letters list` shows which there are"
                )
                .into());
            };
            say!("{}", serde_json::to_string_pretty(&letter)?)?;
        }
        DlqCommand::Redrive { rate, chosen } => {
            let (pool, what) = chosen.open().await?;
            let missing = admin::missing(&pool, &what).await?;
            let count = match rate {
                None => admin::redrive_selected(&pool, &what).await?,
                Some(rate) => redrive_at(&pool, &what, rate).await?,
            };
            say!("{count} to redrive; {TAKEN_UP}")?;
            all_there(&missing)?;
        }
        DlqCommand::Drop { chosen, yes } => {
            let (pool, what) = chosen.open().await?;
            let missing = admin::missing(&pool, &what).await?;
            if what.ids.is_none() {
                let count = admin::count(&pool, &what).await?.unsigned_abs();
                let count = counted(count, "dead letter", "dead letters");
                agreed(yes, &format!("{count} would be dropped for good"))?;
            }
            say!("{} dropped", admin::drop_selected(&pool, &what).await?)?;
            all_there(&missing)?;
        }
        DlqCommand::Export { filter, database } => {
            let (pool, what) = open(database, filter, None).await?;
            export(&pool, &what).await?;
        }
    }
    Ok(())
}

/// Hands those of a selection that are there now to the listener, bit by bit. What fails again
/// meanwhile is another dead letter, and not handed over once more.
async fn redrive_at(pool: &PgPool, what: &Selection, rate: u32) -> Result<u64, CliError> {
    let up_to = admin::newest(pool, what).await?;
    let all = admin::count(pool, what).await?;
    let shown = std::io::stderr().is_terminal();
    let mut parts = tokio::time::interval(PART);
    parts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut count, mut due, mut after) = (0, 0.0, admin::Place::default());
    loop {
        parts.tick().await;
        due += f64::from(rate) * PART.as_secs_f64();
        let whole = due.floor();
        due -= whole;
        // A rate below two a second has parts with none.
        if whole < 1.0 {
            continue;
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most the rate")]
        let most = whole as i64;
        let (asked, place) = admin::redrive_some(pool, what, (after, up_to), most).await?;
        count += asked;
        if shown {
            logs::say(&format!("\r{count} of {all}"));
        }
        match place {
            Some(place) => after = place,
            None => break,
        }
    }
    if shown {
        logs::say("\n");
    }
    Ok(count)
}

async fn export(pool: &PgPool, what: &Selection) -> Result<(), CliError> {
    let mut after = 0;
    loop {
        let page = admin::page(pool, what, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.stored.id;
        let lines: Vec<String> = page
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        say!("{}", lines.join("\n"))?;
    }
}

impl Chosen {
    async fn open(self) -> Result<(PgPool, Selection), CliError> {
        let ids = (!self.all).then_some(self.ids);
        let (pool, what) = open(self.database, self.filter, ids).await?;
        if what.listener.is_none() && what.ids.is_none() {
            let what_to_do = "--all is for one listener: name it with --listener NAME, or its files with -f FILE";
            return Err(unnamed(&pool, what_to_do).await?);
        }
        Ok((pool, what))
    }
}

async fn open(
    database: DatabaseArgs,
    filter: Filter,
    ids: Option<Vec<i64>>,
) -> Result<(PgPool, Selection), CliError> {
    let named = files::observers(&database)?;
    let (pool, listener) = of_known(database).await?;
    if let Some(observer) = filter.observer.clone().map(identity) {
        check_name(&pool, listener.as_deref(), &observer, &named).await?;
    }
    Ok((
        pool,
        Selection {
            ids,
            listener,
            observer: filter.observer.map(identity),
            action: filter.action,
            kind: filter.kind,
            entity: filter.entity,
            key: filter.key,
            tenant: filter.tenant,
            since: filter.since,
            until: filter.until,
        },
    ))
}

/// Fails where a filter names an observer that is neither in the files nor has dead letters, as one
/// does that is mistyped.
async fn check_name(
    pool: &PgPool,
    listener: Option<&str>,
    observer: &str,
    named: &[String],
) -> Result<(), CliError> {
    let what = Selection {
        listener: listener.map(str::to_owned),
        observer: Some(observer.to_owned()),
        ..Selection::default()
    };
    if named.iter().any(|one| one == observer) || admin::count(pool, &what).await? > 0 {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "nothing is known of an observer {observer}: it has no dead letters, and no file that was named has it"
    )
    .into())
}

const HEAD: [&str; 8] = [
    "ID",
    "GIVEN UP AT",
    "OBSERVER/ACTION",
    "EVENT",
    "KEY",
    "ATTEMPTS",
    "KIND",
    "ERROR",
];

fn table(letters: &[Stored], count: i64) -> Result<(), CliError> {
    if letters.is_empty() {
        return say!("no dead letters");
    }
    let rows: Vec<[String; 8]> = letters.iter().map(row).collect();
    print(HEAD, &rows)?;
    if count > i64::try_from(letters.len()).unwrap_or(i64::MAX) {
        say!("{} of {count}; --limit shows more", letters.len())?;
    }
    Ok(())
}

/// Fails where some of the ids that were given name nothing.
fn all_there(missing: &[i64]) -> Result<(), CliError> {
    if missing.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(anyhow::anyhow!(
        "there is no dead letter {}; `dead-letters list` shows which there are",
        ids.join(", ")
    )
    .into())
}

fn row(letter: &Stored) -> [String; 8] {
    let waits = if letter.redrive_requested_at.is_some() {
        " (redriving)"
    } else {
        ""
    };
    [
        letter.id.to_string(),
        time(letter.created_at),
        format!("{}/{}", letter.observer, letter.action),
        format!("{} {}", letter.operation, letter.entity),
        beginning(letter.key.as_deref().unwrap_or_default(), ERROR_WIDTH / 2),
        letter.attempts.to_string(),
        format!("{}{waits}", letter.error_kind),
        beginning(&letter.error, ERROR_WIDTH),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_days_and_spans_are_read() {
        let hours = |hours| Some(Duration::from_hours(hours));
        for (text, span) in [
            ("7d", hours(168)),
            ("1d12h", hours(36)),
            ("24h", hours(24)),
            ("d", None),
            ("x", None),
        ] {
            assert_eq!(ago(text), span, "{text}");
        }
        let read = |text| moment(text).map(time);
        assert_eq!(read("2026-03-01"), Ok("2026-03-01T00:00:00Z".to_owned()));
        assert_eq!(
            read("2026-03-01T12:00:00+02:00"),
            Ok("2026-03-01T10:00:00Z".to_owned())
        );
        for wrong in ["yesterday", "2026-03", "9999999999d", ""] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
