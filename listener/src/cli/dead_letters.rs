//! `dead-letters`: list, redrive, export and drop dead letters.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};
use crds::config::ObserverConfig;
use crds::duration::HumanDuration;
use observer_listener::dead_letters::admin::{self, DeadLetterFilter, DeadLetterRow};
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::output::{OutputFormat, PICKUP_NOTE, confirm, counted, say, time};
use super::schema::{listener_required, open_database};
use super::table::{one_line, print};
use super::terminal::Progress;
use super::{CliError, DatabaseArgs, did_you_mean, identity};

/// Dead letters in memory during an export.
const EXPORT_PAGE: i64 = 100;

/// Interval of requests at a rate.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List dead letters, the newest first
    List {
        #[command(flatten)]
        filter: DeadLetterFilterArgs,
        /// Maximum number of dead letters
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// Output format
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show a dead letter with its event and attempts as JSON
    Show {
        /// Id from the list
        id: i64,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Retry deliveries, with the same ids as before
    Redrive {
        /// Dead letters per second to redrive, in the order of their events; if interrupted, the rest stay
        /// dead letters. Default: all at once
        #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rate: Option<u32>,
        #[command(flatten)]
        selection: DeadLetterSelectionArgs,
        /// Confirm that all are delivered again
        #[arg(long)]
        yes: bool,
    },
    /// Delete dead letters permanently
    Drop {
        #[command(flatten)]
        selection: DeadLetterSelectionArgs,
        /// Confirm the deletion of all
        #[arg(long)]
        yes: bool,
    },
    /// Write all matches with their events and attempts to standard output as JSON lines, the oldest
    /// first
    Export {
        #[command(flatten)]
        filter: DeadLetterFilterArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct DeadLetterSelectionArgs {
    /// Ids of dead letters
    ids: Vec<i64>,
    /// All dead letters that match the filters, instead of ids
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    #[command(flatten)]
    filter: DeadLetterFilterArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Default, Args)]
pub(super) struct DeadLetterFilterArgs {
    /// Only dead letters of this observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only dead letters of this action
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only this kind of failure, as in the list
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only events of this entity, as schema.table
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Only events of this key, as in the list
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only dead letters created at this time or later, as 2026-03-01T12:00:00Z, or 24h for 24 hours ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Only dead letters created before this time, in the same format
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
}

/// Parses a time, a day (from midnight UTC), or a duration before now.
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
        "use a time such as 2026-03-01T12:00:00Z, a day (from midnight UTC) such as 2026-03-01, or a duration before now, \
         such as 7d, 24h or 1h30m"
            .to_owned()
    })
}

/// Parses a duration with an optional number of days in front.
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

/// Runs a `dead-letters` command.
pub(super) async fn dead_letters(command: DeadLettersCommand) -> Result<(), CliError> {
    match command {
        DeadLettersCommand::List {
            filter,
            limit,
            output,
            database,
        } => {
            let (pool, filter) = open(database, filter, None).await?;
            let letters = admin::list(&pool, &filter, i64::MAX, limit).await?;
            match output {
                OutputFormat::Json => say!("{}", serde_json::to_string_pretty(&letters)?)?,
                OutputFormat::Table => table(&letters, admin::count(&pool, &filter).await?)?,
            }
        }
        DeadLettersCommand::Show { id, database } => {
            let (pool, filter) =
                open(database, DeadLetterFilterArgs::default(), Some(vec![id])).await?;
            let Some(letter) = admin::show(&pool, &filter).await? else {
                return Err(anyhow::anyhow!(
                    "there is no dead letter {id}; see `dead-letters list`"
                )
                .into());
            };
            say!("{}", serde_json::to_string_pretty(&letter)?)?;
        }
        DeadLettersCommand::Redrive {
            rate,
            selection,
            yes,
        } => {
            let (pool, filter) = selection.open().await?;
            let missing = admin::missing(&pool, &filter).await?;
            let chosen = confirm_all(&pool, &filter, yes, "would be delivered again").await?;
            let count = match rate {
                None => admin::redrive_up_to(&pool, &filter, chosen.up_to).await?,
                Some(rate) => redrive_at(&pool, &filter, &chosen, rate).await?,
            };
            say!("{count} to redrive; {PICKUP_NOTE}")?;
            require_found(&missing)?;
        }
        DeadLettersCommand::Drop { selection, yes } => {
            let (pool, filter) = selection.open().await?;
            let missing = admin::missing(&pool, &filter).await?;
            let chosen = confirm_all(&pool, &filter, yes, "would be dropped permanently").await?;
            let count = admin::drop_up_to(&pool, &filter, chosen.up_to).await?;
            say!("{count} dropped")?;
            require_found(&missing)?;
        }
        DeadLettersCommand::Export { filter, database } => {
            let (pool, filter) = open(database, filter, None).await?;
            export(&pool, &filter).await?;
        }
    }
    Ok(())
}

/// Dead letters that match before anybody is asked. What comes while somebody thinks about it is none of them.
struct Chosen {
    up_to: i64,
    count: u64,
}

/// Asks for a confirmation of what is done to all that match now; ids are confirmation enough.
async fn confirm_all(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    yes: bool,
    effect: &str,
) -> Result<Chosen, CliError> {
    let (up_to, count) = admin::newest_and_count(pool, filter).await?;
    let count = count.unsigned_abs();
    if filter.ids.is_none() {
        let counted = counted(count, "dead letter", "dead letters");
        confirm(yes, &format!("{counted} {effect}")).await?;
    }
    Ok(Chosen { up_to, count })
}

/// Redrives dead letters at a rate. Those that fail again meanwhile are not redriven twice.
async fn redrive_at(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    chosen: &Chosen,
    rate: u32,
) -> Result<u64, CliError> {
    let progress = Progress::new(("dead letter", "dead letters"), Some(chosen.count));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut count, mut due, mut after) = (0, 0.0, admin::RedriveCursor::default());
    loop {
        ticks.tick().await;
        due += f64::from(rate) * INTERVAL.as_secs_f64();
        let whole = due.floor();
        due -= whole;
        // At a rate below two per second, some ticks have none.
        if whole < 1.0 {
            continue;
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most the rate")]
        let most = whole as i64;
        let (requested, cursor) =
            admin::redrive_some(pool, filter, (after, chosen.up_to), most).await?;
        count += requested;
        progress.show(count, "");
        match cursor {
            Some(cursor) => after = cursor,
            None => break,
        }
    }
    Ok(count)
}

async fn export(pool: &PgPool, filter: &DeadLetterFilter) -> Result<(), CliError> {
    let mut after = 0;
    loop {
        let page = admin::page(pool, filter, after, EXPORT_PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.row.id;
        let lines: Vec<String> = page
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        say!("{}", lines.join("\n"))?;
    }
}

impl DeadLetterSelectionArgs {
    async fn open(self) -> Result<(PgPool, DeadLetterFilter), CliError> {
        let ids = (!self.all).then_some(self.ids);
        let (pool, filter) = open(self.database, self.filter, ids).await?;
        if filter.listener.is_none() && filter.ids.is_none() {
            let advice = "--all is for one listener: name it with --listener NAME, or its files with -f FILE";
            return Err(listener_required(&pool, advice).await?);
        }
        Ok((pool, filter))
    }
}

async fn open(
    database: DatabaseArgs,
    filter: DeadLetterFilterArgs,
    ids: Option<Vec<i64>>,
) -> Result<(PgPool, DeadLetterFilter), CliError> {
    let database = database.resolve().await?;
    let (pool, listener) = open_database(&database).await?;
    if let Some(observer) = filter.observer.clone().map(identity) {
        let observers = database.bundle.iter().flat_map(|bundle| &bundle.observers);
        let named: Vec<String> = observers.map(ObserverConfig::identity).collect();
        check_name(&pool, listener.as_deref(), &observer, &named).await?;
    }
    Ok((
        pool,
        DeadLetterFilter {
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

/// Fails if the observer of a filter is neither in the files nor has dead letters, since the name may be
/// mistyped.
async fn check_name(
    pool: &PgPool,
    listener: Option<&str>,
    observer: &str,
    named: &[String],
) -> Result<(), CliError> {
    let filter = DeadLetterFilter {
        listener: listener.map(str::to_owned),
        observer: Some(observer.to_owned()),
        ..DeadLetterFilter::default()
    };
    if named.iter().any(|one| one == observer) || admin::count(pool, &filter).await? > 0 {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "no such observer {observer}: it has no dead letters, and is not in the given files{}",
        did_you_mean(observer, named)
    )
    .into())
}

const HEAD: [&str; 8] = [
    "ID",
    "CREATED",
    "OBSERVER/ACTION",
    "EVENT",
    "KEY",
    "ATTEMPTS",
    "KIND",
    "ERROR",
];

fn table(letters: &[DeadLetterRow], count: i64) -> Result<(), CliError> {
    if letters.is_empty() {
        return say!("no dead letters");
    }
    let rows: Vec<[String; 8]> = letters.iter().map(row).collect();
    print(HEAD, &rows)?;
    if count > i64::try_from(letters.len()).unwrap_or(i64::MAX) {
        say!("{} of {count}; use --limit to see more", letters.len())?;
    }
    Ok(())
}

/// Fails if some of the given ids do not exist.
fn require_found(missing: &[i64]) -> Result<(), CliError> {
    if missing.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(anyhow::anyhow!(
        "there is no dead letter {}; see `dead-letters list`",
        ids.join(", ")
    )
    .into())
}

fn row(letter: &DeadLetterRow) -> [String; 8] {
    let redriving = if letter.redrive_requested_at.is_some() {
        " (redriving)"
    } else {
        ""
    };
    [
        letter.id.to_string(),
        time(letter.created_at),
        format!("{}/{}", letter.observer, letter.action),
        format!("{} {}", letter.operation, letter.entity),
        one_line(letter.key.as_deref().unwrap_or_default()),
        letter.attempts.to_string(),
        format!("{}{redriving}", letter.error_kind),
        one_line(&letter.error),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_days_and_durations_are_parsed() {
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
