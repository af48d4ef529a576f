//! `tail`: events as they are committed, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use backoff::Backoff;
use chrono::{DateTime, Utc};
use clap::Args;
use observer_listener::capture::change_log::{ChangeRecord, LogError};
use observer_listener::capture::poll_loop::poll_pause;
use observer_listener::capture::tail::{LogTail, TailStep};
use observer_listener::delivery::event::Event;
use observer_listener::history::events::EventFilter;
use program::logs;
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dead_letters::moment;
use super::event_filter::WhatFilter;
use super::event_view::EventView;
use super::listener::{self, OpenListener};
use super::output::{OutputFormat, say, time};
use super::pending_outcomes::{OutcomeArg, PendingOutcomes};
use super::table::{fitted, one_line};
use super::{CliError, DatabaseArgs, watch};

/// Number of events that are read ahead of what is printed.
const READ_AHEAD: usize = 512;

/// Backoff of a read that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Longest pause between two reads soon after an event; it grows with the time since the last one.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    what: WhatFilter,
    /// Only events that this observer matches, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only events with such an outcome, once it is known; repeatable, or with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "OUTCOME")]
    outcome: Vec<OutcomeArg>,
    /// Begin with past events since this time, as 2026-03-01T12:00:00Z, or 10m for 10 minutes ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Which events and outcomes are printed.
pub(super) struct TailFilter {
    what: EventFilter,
    pub(super) observer: Option<String>,
    pub(super) outcomes: Vec<OutcomeArg>,
}

impl TailFilter {
    /// Returns whether an event is printed, as far as that is known before its outcome.
    fn matches(&self, event: &Event, listener: Option<&OpenListener>) -> bool {
        let is_matched = |observer: &String| {
            let mut rules = listener
                .into_iter()
                .flat_map(|one| one.observers.of_entity(&event.entity));
            rules.any(|(name, rule, _)| name == observer && rule.explain(event).is_none())
        };
        self.what.matches(event) && self.observer.as_ref().is_none_or(is_matched)
    }
}

/// Runs `tail` until an interrupt.
pub(super) async fn tail(args: TailArgs) -> Result<(), CliError> {
    let stop = watch::stop_on_interrupt()?;
    let (pool, listener) = tokio::select! {
        opened = listener::open(args.database) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    if listener.is_none() && (args.observer.is_some() || !args.outcome.is_empty()) {
        return Err(CliError::Config(
            "--observer and --outcome need the observers: name their files with -f FILE".to_owned(),
        ));
    }
    let observer = match (args.observer, &listener) {
        (Some(name), Some(listener)) => Some(listener.observer(name)?),
        _ => None,
    };
    let filter = TailFilter {
        what: args.what.select(),
        observer,
        outcomes: args.outcome,
    };
    let reader = LogTail::open(
        pool.clone(),
        args.since,
        listener.as_ref().map(|one| one.identity.clone()),
    )
    .await?;
    let (sender, records) = mpsc::channel(READ_AHEAD);
    let mut reading = tokio::spawn(read(reader, sender));
    let printing = print_all(&pool, listener, filter, args.output, records);
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        printed = printing => {
            printed?;
            // The reader has ended, which it does for an error only.
            Ok((&mut reading).await??)
        }
    }
}

/// Reads events until nobody takes them or reading cannot go on.
async fn read(mut reader: LogTail, records: mpsc::Sender<ChangeRecord>) -> Result<(), LogError> {
    let (mut backoff, mut is_away, mut last_event) = (RETRY, false, Instant::now());
    loop {
        let step = match reader.read_next().await {
            Err(LogError::Database(error)) => {
                if !is_away {
                    logs::say(&format!("the database is away, trying again: {error}\n"));
                    is_away = true;
                }
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            step => step?,
        };
        if is_away {
            logs::say("the database is back\n");
            is_away = false;
            backoff.reset();
        }
        match step {
            TailStep::Events(events) => {
                for event in events {
                    last_event = Instant::now();
                    if records.send(event).await.is_err() {
                        return Ok(());
                    }
                }
            }
            TailStep::Idle => {
                tokio::time::sleep(poll_pause(last_event.elapsed(), LONGEST_PAUSE, false)).await;
            }
            TailStep::Reset => logs::say(
                "the database has gone back in time, or another has taken its place: going on with what it commits from \
                 now on\n",
            ),
        }
    }
}

/// Prints events and outcomes until there are no more events.
async fn print_all(
    pool: &PgPool,
    listener: Option<OpenListener>,
    filter: TailFilter,
    output: OutputFormat,
    mut records: mpsc::Receiver<ChangeRecord>,
) -> Result<(), CliError> {
    let Some(listener) = listener else {
        while let Some(record) = records.recv().await {
            if filter.matches(&record.event, None) {
                print_event(&record.event, output)?;
            }
        }
        return Ok(());
    };
    let mut pending = PendingOutcomes::new(pool, &listener, &filter, output);
    loop {
        tokio::select! {
            record = records.recv() => {
                let Some(record) = record else { return Ok(()) };
                if filter.matches(&record.event, Some(&listener)) {
                    pending.add(Arc::new(record.event)).await?;
                }
            }
            () = pending.due() => pending.look().await?,
        }
    }
}

/// A line for programs: an event.
#[derive(Serialize)]
struct EventLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    event: EventView<'a>,
}

/// Prints an event.
pub(super) fn print_event(event: &Event, output: OutputFormat) -> Result<(), CliError> {
    if let OutputFormat::Json = output {
        let line = EventLine {
            kind: "event",
            event: EventView {
                // It is never another.
                read_from: None,
                ..EventView::logged(event, None)
            },
        };
        return say!("{}", serde_json::to_string(&line)?);
    }
    print_line(
        event.occurred_at,
        event.operation.as_str(),
        &event.id,
        &format!(
            "{}  {}",
            one_line(&event.entity),
            one_line(event.key.as_deref().unwrap_or("-"))
        ),
    )
}

/// Prints a line for people.
pub(super) fn print_line(
    at: DateTime<Utc>,
    what: &str,
    id: &str,
    text: &str,
) -> Result<(), CliError> {
    let line = format!("{}  {what:8}  {id}  {text}", time(at));
    say!("{}", fitted(line))
}
